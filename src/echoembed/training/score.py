"""Scores during a run: the model in training is evaluated on local tasks, without an effect on its training.

The random states, and whether modules are in training mode, are restored after scoring. A run with scores ends with the
same bits as a run without.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from echoembed.engine.gradients import kept_modes
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate
from echoembed.training.run_folder import SCORES, append_lines
from echoembed.training.tables import ScoreConfig

if TYPE_CHECKING:
    from echoembed.evaluation.store import Score


class Scores(TrainerCallback):
    """Scores a model before the first step, every few steps and after the last; writes ``scores.jsonl``.

    Args:
        model: The model in training.
        config: The tasks, and how often they are scored.
        folder: The run's folder.

    Attributes:
        last: The newest scores.

    Raises:
        DataError: If there is no such data, or one of its files is missing; raised before training starts.
        EvaluationError: If a task is unknown.
    """

    def __init__(self, model: SentenceTransformer, config: ScoreConfig, folder: Path) -> None:
        self.model = model
        self.config = config
        self.path = folder / SCORES
        self.tasks = local_tasks(config.data, list(config.tasks), max_texts=config.sample)
        self.last: list[Score] = []
        self._scored_step = -1

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score the model before training; a resumed run already has these scores."""
        if state.global_step == 0:
            self._score(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score the model if it is due, before the step's checkpoint, so that a resumed run need not score it again."""
        due = self.config.every and state.global_step % self.config.every == 0
        if due or state.global_step == state.max_steps:
            self._score(state)

    def _score(self, state: TrainerState) -> None:
        if not state.is_world_process_zero or state.global_step == self._scored_step:
            return
        with undisturbed(self.model):
            self.last = evaluate(self.model, self.tasks)
        self._scored_step = state.global_step
        lines = [
            {"step": state.global_step, "task": score.task, "kind": score.kind, "score": score.score}
            for score in self.last
        ]
        append_lines(self.path, lines)


@contextmanager
def undisturbed(model: SentenceTransformer) -> Iterator[None]:
    """Restore random states and the modules' training modes after a ``with`` block."""
    numpy_state: Any = np.random.get_state()
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        with kept_modes(model):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
