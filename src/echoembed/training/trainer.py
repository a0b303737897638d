"""Our additions to sentence-transformers' trainer, which runs the training loop.

Every column is read with its own template and its data set's instruction. A loss or gradient that is not finite ends
the run before it reaches the weights. Ctrl-C and SIGTERM end the run after the current step, with a checkpoint.
Checkpoints appear whole or not at all (``checkpoint.py``). Each step is a line of ``log.jsonl``.

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
    """Return each column's template: the query template for the first column, and for all if the data is symmetric."""
    return {name: "query" if place == 0 or symmetric else "document" for place, name in enumerate(columns)}


def prompts_of(kinds: Mapping[str, Kind], instruction: str, recipe: Recipe) -> dict[str, str]:
    """Return the instruction of each column whose template has a place for one."""
    return {name: instruction for name, kind in kinds.items() if recipe.template(kind).has("instruction")}


class Collator(SentenceTransformerDataCollator):
    """Sorts the rows of a batch by length, and counts its ``rows`` and ``tokens``.

    The losses do not depend on the order of rows, and a chunk of rows of similar length has less padding. With a
    ``teacher``, its vectors are the ``label`` of a batch of plain texts.
    """

    teacher: Teacher | None = None

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Render the rows as the library does: each column by its data set's ``router_mapping`` and ``prompts``."""
        features = sorted(features, key=lambda row: sum(len(text) for text in row.values() if isinstance(text, str)))
        batch: dict[str, Any] = super().__call__(features)
        masks = [value for key, value in batch.items() if key.endswith("_attention_mask")]
        if self.teacher is not None and "text" in features[0]:
            batch["label"] = self.teacher.vectors([row["text"] for row in features])
        return {**batch, "rows": len(features), "tokens": int(sum(mask.sum() for mask in masks))}


@dataclass
class Step:
    """The numbers of the current step, over all processes."""

    data_set: str = ""
    loss: float = 0.0
    gradient_norm: float = 0.0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0


class EchoTrainer(SentenceTransformerTrainer):
    """The trainer of all objectives, which differ in their loss.

    Args:
        run: The folder of the run.
        record: What the run was started with; it is written into each checkpoint.
        keep: The number of checkpoints to keep.
        arguments: The arguments of sentence-transformers' trainer.

    Attributes:
        last: The last step.
        newest: The folder of the newest whole checkpoint; None before the first.
        stopped: Whether a signal ended the run.

    Raises:
        TrainingError: In ``train``, if the loss or a gradient is not finite, or a checkpoint cannot be written.
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
        """Do nothing, as the finished model gets our own card."""

    # One step.

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Run forward and backward; the optimiser changes the weights only if this succeeds.

        Raises:
            TrainingError: If the loss or the gradient's norm is not finite on any process.
        """
        # 1. Run the library's step, and take the gradient's norm.
        data_set, rows, tokens = str(inputs["dataset_name"]), inputs["rows"], inputs["tokens"]
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # 2. Share the numbers, so that all processes stop together: if one stopped alone, the others would wait.
        exact = torch.float32 if loss.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        numbers = [float(loss), float(norm), rows, tokens, self._asked_to_stop]
        own_G = torch.tensor(numbers, dtype=exact, device=loss.device)
        all_PG: Tensor = self.accelerator.gather(own_G[None])
        self.stopped = bool(all_PG[:, 4].any())
        # 3. Keep the numbers for the step's line in the log.
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
        # 4. If a number is not finite, end the run before the optimiser changes a weight.
        for what, column in (("loss", 0), ("gradient", 1)):
            if not torch.isfinite(all_PG[:, column]).all():
                raise errors.training_not_finite(what, self.state.global_step + 1, data_set, str(self.newest or ""))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass a step's numbers to the callbacks, and write its line in the log.

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
        """Let SIGINT and SIGTERM end the run after the current step; a second signal acts as usual."""
        usual: dict[signal.Signals, Any] = {}

        def ask(_number: int, _frame: FrameType | None) -> None:
            self._asked_to_stop = True
            for number, handler in usual.items():
                signal.signal(number, handler)

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                usual[number] = signal.getsignal(number) or signal.SIG_DFL
                signal.signal(number, ask)
        except ValueError:  # only the main thread may set handlers; a thread's caller handles signals itself
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
            TrainingError: As the class says, and ``TrainingStoppedError`` if a signal ended the run.
        """
        self.newest = newest
        # 1. All processes start with the same weights; give each process its own random state, for dropout.
        if self.args.process_index:
            set_seed((self.args.seed + self.args.process_index) % 2**32)
        # 2. The library restores the checkpoint (weights through `_load_from_checkpoint`, then optimiser, schedule and
        #    random states), skips the batches of the steps already made, and trains.
        self._marked = time.perf_counter()
        with self.stoppable():
            self.train(resume_from_checkpoint=str(newest) if newest else None)
        # 3. If a signal ended the run before its last step, `_Stop` has made the library write a checkpoint.
        if self.stopped and self.state.global_step < self.state.max_steps:
            raise errors.training_stopped(self.state.global_step, self.state.max_steps, self.newest)


class _Stop(TrainerCallback):
    def __init__(self, trainer: EchoTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write checkpoints as often as this run says; a resumed state remembers the interval of the run before."""
        state.compute_steps(args, state.max_steps)  # type: ignore[no-untyped-call]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop all processes together, with a checkpoint."""
        if self.trainer.stopped:
            control.should_save = control.should_training_stop = True
