"""The loop is sentence-transformers' trainer; here is what it lacks.

Every column is read under its own template and its data set's instruction. A loss or gradient that is not finite ends
the run before it reaches the weights. Ctrl-C and SIGTERM end it after the step, with a checkpoint. Checkpoints are
whole or absent (``checkpoint.py``). Each step is a line of ``log.jsonl``.

Shapes: G gathered numbers of a process, P processes.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from echoembed import errors
from echoembed.recipe import Kind, Recipe
from echoembed.training import checkpoint
from echoembed.training.run_folder import LOG, append_lines
from echoembed.training.teacher import Teacher


def kinds_of(columns: Iterable[str], *, symmetric: bool) -> dict[str, Kind]:
    """Column → the template it is read under: queries' for all of a symmetric data set, else for the first alone."""
    return {name: "query" if place == 0 or symmetric else "document" for place, name in enumerate(columns)}


def prompts_of(kinds: Mapping[str, Kind], instruction: str, recipe: Recipe) -> dict[str, str]:
    """Column → the instruction, for those whose template has a place for it."""
    return {name: instruction for name, kind in kinds.items() if recipe.template(kind).has("instruction")}


class Collator(SentenceTransformerDataCollator):
    """Puts rows of like length beside each other, and counts ``rows`` of a batch and ``tokens`` that are read.

    The losses do not look at the order of rows, and a chunk of like rows is padded less. Batches of plain texts get the
    vectors of ``teacher``, where there is one, as their ``label``.
    """

    teacher: Teacher | None = None

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Render rows, as the library does: each column by its data set's ``router_mapping`` and ``prompts``."""
        features = sorted(features, key=lambda row: sum(len(text) for text in row.values() if isinstance(text, str)))
        batch: dict[str, Any] = super().__call__(features)
        masks = [value for key, value in batch.items() if key.endswith("_attention_mask")]
        if self.teacher is not None and "text" in features[0]:
            batch["label"] = self.teacher.vectors([row["text"] for row in features])
        return {**batch, "rows": len(features), "tokens": int(sum(mask.sum() for mask in masks))}


@dataclass
class Step:
    """What is known of the current step, over all processes."""

    data_set: str = ""
    loss: float = 0.0
    gradient_norm: float = 0.0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0


class EchoTrainer(SentenceTransformerTrainer):
    """The trainer of every objective; they differ in their loss.

    Args:
        run: Folder of the run.
        record: What the run was begun with, kept in each checkpoint.
        keep: Checkpoints kept, the newest.
        arguments: What sentence-transformers' trainer takes.

    Attributes:
        last: The step just made.
        newest: Folder of the newest whole checkpoint; None before the first.
        stopped: Whether a signal ended the run.

    Raises:
        TrainingError: In ``train``: when the loss or a gradient is not finite, or a checkpoint cannot be written.
    """

    data_collator_class = Collator

    def __init__(self, *, run: Path, record: Mapping[str, Any], keep: int, **arguments: Any) -> None:
        self.run = run
        self.record = dict(record)
        self.keep = keep
        self.last = Step()
        self.newest: Path | None = None
        self.stopped = False
        self._asked_to_stop = False
        self._marked = time.perf_counter()
        super().__init__(**arguments)
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)
        self.add_callback(_Stop(self))

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Does nothing: the finished model gets a card of our own."""

    # One step.

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Forward and backward; the weights are changed only after this has passed.

        Raises:
            TrainingError: If the loss or the gradient's norm is not finite, on whichever process.
        """
        # 1. The library's step, and the norm of the gradient that it leaves.
        data_set, rows, tokens = str(inputs["dataset_name"]), inputs["rows"], inputs["tokens"]
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # 2. All processes judge by the same numbers: one that ended alone would leave the others waiting.
        exact = torch.float32 if loss.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        numbers = [float(loss), float(norm), rows, tokens, self._asked_to_stop]
        here_G = torch.tensor(numbers, dtype=exact, device=loss.device)
        all_PG: Tensor = self.accelerator.gather(here_G[None])
        self.stopped = bool(all_PG[:, 4].any())
        # 3. What the step's line in the log says.
        now = time.perf_counter()
        self.last = Step(
            data_set=data_set,
            loss=float(all_PG[:, 0].mean()),
            gradient_norm=float(all_PG[:, 1].mean()),
            rows=int(all_PG[:, 2].sum()),
            tokens=int(all_PG[:, 3].sum()),
            seconds=now - self._marked,
        )
        self._marked = now
        # 4. Numbers that are not finite end the run before the optimiser changes a weight.
        for what, column in (("loss", 0), ("gradient", 1)):
            if not torch.isfinite(all_PG[:, column]).all():
                raise errors.training_not_finite(what, self.state.global_step + 1, data_set, str(self.newest or ""))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand a step's numbers to all who listen, and write its line.

        Raises:
            FileError: If the line cannot be written.
        """
        if "loss" in logs:
            counts = {"rows": self.last.rows, "tokens": self.last.tokens, "seconds": self.last.seconds}
            logs = {**logs, **counts}
            if self.is_world_process_zero():
                line = {
                    "step": self.state.global_step,
                    "loss": self.last.loss,
                    "learning_rate": logs["learning_rate"],
                    "gradient_norm": self.last.gradient_norm,
                    "data_set": self.last.data_set,
                    **counts,
                }
                append_lines(self.run / LOG, [line])
        super().log(logs, start_time)

    # Stopping.

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """While it lasts, SIGINT and SIGTERM stop the run after the current step; a second signal acts as usual."""
        usual: dict[signal.Signals, Any] = {}

        def ask(_number: int, _frame: FrameType | None) -> None:
            self._asked_to_stop = True
            for each, handler in usual.items():
                signal.signal(each, handler)

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                usual[number] = signal.getsignal(number) or signal.SIG_DFL
                signal.signal(number, ask)
        except ValueError:  # not the main thread, which alone may: whoever started the thread sees to signals
            usual.clear()
        try:
            yield
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)

    # Checkpoints: whole or not at all.

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        def write_state(folder: Path) -> None:
            self._save_optimizer_and_scheduler(str(folder))
            self.state.save_to_json(str(folder / checkpoint.STATE))

        self.newest = checkpoint.save(
            self.run,
            self.state.global_step,
            weights=self._trained(),
            record=self.record,
            write_state=write_state,
            write_random_state=lambda folder: self._save_rng_state(str(folder)),
            writes=self.is_world_process_zero(),
            keep=self.keep,
            newest=self.newest,
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoint.load_weights(Path(resume_from_checkpoint), self._trained())

    def _trained(self) -> dict[str, nn.Parameter]:
        assert self.model is not None
        assert isinstance(self.loss, nn.Module)  # one for all data sets
        return checkpoint.trained_weights(self.model, self.loss)

    def train_from(self, newest: Path | None) -> None:
        """Train to the end, from a checkpoint or from the beginning.

        Raises:
            TrainingError: As the class says; and ``TrainingStoppedError`` when a signal ended the run.
        """
        self.newest = newest
        # 1. Every process begins with the weights of the first, and draws its own dropout.
        if self.args.process_index:
            set_seed((self.args.seed + self.args.process_index) % 2**32)
        # 2. The library restores the checkpoint (weights through `_load_from_checkpoint`, then optimiser, schedule and
        #    random states), passes over the batches of the steps already made, and trains.
        self._marked = time.perf_counter()
        with self.stoppable():
            self.train(resume_from_checkpoint=str(newest) if newest else None)
        # 3. A signal has ended the run before its last step: `_Stop` had the library write a checkpoint.
        if self.stopped and self.state.global_step < self.state.max_steps:
            raise errors.training_stopped(self.state.global_step, self.state.max_steps, self.newest)


class _Stop(TrainerCallback):
    def __init__(self, trainer: EchoTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have checkpoints as often as this run says: a resumed state remembers how often the one before did."""
        state.compute_steps(args, state.max_steps)  # type: ignore[no-untyped-call]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop all processes alike, with a checkpoint."""
        if self.trainer.stopped:
            control.should_save = control.should_training_stop = True
