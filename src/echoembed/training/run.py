"""A training run of any objective: rows, model, adapter, trainer, finished model (its folder: ``run_folder.py``).

Under ``accelerate launch`` or ``torchrun`` each process takes its share of every batch; the first process writes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from echoembed import errors, versions
from echoembed.engine import gradients
from echoembed.engine.gradients import TrainingChoice
from echoembed.model.load import load
from echoembed.model.transformer import transformer_of
from echoembed.training import export, mntp, rows, simcse, start
from echoembed.training.adapter import add_adapter
from echoembed.training.config import TrainConfig, recipe_of
from echoembed.training.distil import DistilLoss
from echoembed.training.heap import FreedMemory
from echoembed.training.loss import contrastive_loss
from echoembed.training.progress import TrainingProgress, reading_rows
from echoembed.training.resume import begin_run, checkpoint_of, record_of, warn_of_processes
from echoembed.training.run_folder import MODELS, TENSORBOARD, step_folder
from echoembed.training.sampler import RatioSampler
from echoembed.training.score import Scores
from echoembed.training.teacher import Teacher
from echoembed.training.trainer import Collator, EchoTrainer, kinds_of, prompts_of

if TYPE_CHECKING:
    from datasets import DatasetDict
    from rich.console import Console

T = TypeVar("T")


class TrainingWarning(UserWarning):
    """A run is slower, or trains on less, than its configuration lets one expect."""


TEMPERATURE: dict[str, float] = {"contrastive": 0.02, "simcse": 0.05, "distil": 0.05}
"""The default τ of each objective: the paper's, SimCSE's, and for ``distil`` that of its pairs."""


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callable[[SentenceTransformer], TrainerCallback]] = (),
) -> Path:
    """Train a model as a configuration says, from the rows to the finished model (paper, Section 4.4, Appendix F).

    Args:
        config: The run.
        resume: Whether to resume the run in ``config.output`` from its newest whole checkpoint, or from the beginning
            if it has none. On a CPU, with the same number of processes, the final weights are bit for bit those of a
            run that was never interrupted.
        console: The console that shows progress; None for none.
        callbacks: Functions that make further callbacks of the trainer, each from the model being trained.

    Returns:
        The folder of the finished model, for ``echoembed.load``.

    Raises:
        TrainingError: If the output folder holds a run and ``resume`` is false, or a run with other settings or data;
            if rows, adapter or batch cannot be used; if the loss is not finite; if a checkpoint cannot be written.
            ``TrainingStoppedError`` after Ctrl-C or SIGTERM.
        EchoembedError: If the data, the recipe or the model cannot be used.
    """
    config = config.effective()
    if config.tensorboard:
        versions.check("tensorboard", extra="tensorboard", purpose="Writing TensorBoard's files")
    with ExitStack() as held:
        return _train(config, resume=resume, console=console, callbacks=callbacks, held=held)


def _train(
    config: TrainConfig,
    *,
    resume: bool,
    console: Console | None,
    callbacks: Sequence[Callable[[SentenceTransformer], TrainerCallback]],
    held: ExitStack,
) -> Path:
    """Train, with the lock on the run's folder in ``held``."""
    # 1. Check the settings and the output folder, and read all rows, before the model is loaded.
    processes = PartialState(cpu=not torch.accelerator.is_available())  # accelerate itself does not check
    if config.optimiser.batch_size % processes.num_processes:
        raise errors.training_batch_indivisible(config.optimiser.batch_size, processes.num_processes)
    newest = _on_first(processes, partial(checkpoint_of, config, resume=resume))
    if newest is not None and processes.is_main_process:
        warn_of_processes(newest, processes.num_processes)
    digests = _on_first(processes, partial(rows.digests, config))
    own_console = console if processes.is_main_process else None
    read: dict[str, rows.ReadRows] = {}
    with reading_rows(own_console) as reading:

        def keep(counts: rows.ReadRows) -> None:
            read[counts.name] = counts
            reading(counts)

        data = rows.read_all(config, progress=keep)
    for said in filter(None, map(rows.unused_words, read.values())):
        if processes.is_main_process:
            warnings.warn(f"{said[0].upper()}{said[1:]}.", TrainingWarning, stacklevel=3)
    if changed := [name for name, hashes in rows.digests(config).items() if hashes != digests[name]]:
        raise errors.training_data_changed(changed)
    # 2. Load the model with the weights to train, and make all that can be refused. Then write the run's record: what a
    #    resumed run must agree with.
    model = _load(config, processes)
    scores = Scores(model, config.score, Path(config.output)) if config.score.data else None
    collator, loss = _collator(model, config, data), _loss(model, config, processes)
    record = record_of(config, digests, transformer_of(model).revision)
    _on_first(processes, partial(begin_run, config, record, newest, held))
    our_callbacks = _callbacks(model, config, scores, own_console)
    # 3. Train, from the newest checkpoint if there is one.
    trainer = EchoTrainer(
        run=Path(config.output),
        record=record,
        keep=config.checkpoint.keep,
        model=model,
        args=_arguments(config, processes, packed=gradients.in_use(transformer_of(model).model) is not None),
        data_collator=collator,
        train_dataset=data,
        loss=loss,
        callbacks=[*our_callbacks, *(make(model) for make in callbacks)],
    )
    try:
        trainer.train_from(newest)
    finally:
        for callback in our_callbacks:
            if isinstance(callback, TrainingProgress):
                callback.close()
    # 4. Save the finished model with its card and pictures.
    model.eval()
    counts = {part.data.name: len(data[part.name]) for part in config.parts}
    return _on_first(processes, partial(export.finish, model, config, Path(config.output), rows=counts))


def _on_first(processes: PartialState, work: Callable[[], T]) -> T:
    """Let the first process do some work, and return its result, or raise its error, on all processes."""
    outcome: list[Any] = [None]
    if processes.is_main_process:
        try:
            outcome = [work()]
        except errors.EchoembedError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], errors.EchoembedError):
        raise outcome[0]
    result: T = outcome[0]
    return result


def _load(config: TrainConfig, processes: PartialState) -> SentenceTransformer:
    """Load the model under its recipe, add the weights to train, and choose its forward."""
    model = load(
        config.model or None,
        recipe=recipe_of(config),
        revision=config.revision or None,
        dtype="float32",
        device=processes.device,
        overflow="ignore",  # in training, the budget is meant to cut long texts
    )
    add_adapter(model, config.adapter, seed=config.seed)
    if config.adapter.start:
        start.begin(model, config.adapter)
    if config.objective == "simcse":
        simcse.prepare(model, config.dropout)
    choice = _forward(model, config)
    gradients.use(transformer_of(model).model, choice.engine)
    if choice.engine is None and choice.reason and processes.is_main_process:
        said = f"Training runs the model's own padded forward, which is slower: {choice.reason}."
        warnings.warn(said, TrainingWarning, stacklevel=2)
    return model


def _forward(model: SentenceTransformer, config: TrainConfig) -> TrainingChoice:
    """Choose the packed forward for training, if the configuration and the model allow it."""
    optimiser = config.optimiser
    if optimiser.forward == "padded":
        return TrainingChoice(None, "")
    if optimiser.gradient_checkpointing:  # it runs layers again, outside the pack
        return TrainingChoice(None, "gradient_checkpointing needs it")
    transformer = transformer_of(model)
    return gradients.choose(
        transformer.model,
        causal=transformer.recipe.attention == "causal",
        dtype=torch.bfloat16 if optimiser.precision == "bfloat16" and config.adapter.rank else torch.float32,
        random=config.objective == "simcse" or config.adapter.dropout > 0 or _drops(transformer.model),
    )


def _drops(model: nn.Module) -> bool:
    """Return whether the model has dropout of its own, in a module or as a number in its configuration."""
    settings = vars(getattr(model, "config", None) or object).items()
    named = any(value for name, value in settings if "drop" in name and isinstance(value, float))
    return named or any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


def _collator(model: SentenceTransformer, config: TrainConfig, data: DatasetDict) -> Collator:
    """Make the collator, which renders every column with its own template and its data set's instruction."""
    recipe = transformer_of(model).recipe
    kinds = {part.name: kinds_of(data[part.name].column_names, symmetric=part.data.symmetric) for part in config.parts}
    collator = Collator(
        preprocess_fn=(mntp.plain_text(model) if config.objective == "mntp" else model).preprocess,
        router_mapping=cast(dict[str, dict[str, str]], kinds),
        prompts={part.name: prompts_of(kinds[part.name], part.instruction, recipe) for part in config.parts},
    )
    if config.objective == "distil":
        collator.teacher = Teacher(config.teacher, Path(config.output))
        for part in config.parts:
            if not part.data.pairs:
                collator.teacher.check(data[part.name]["text"])
    return collator


def _loss(model: SentenceTransformer, config: TrainConfig, processes: PartialState) -> nn.Module:
    optimiser = config.optimiser
    if config.objective == "mntp":
        return mntp.MntpLoss(model, config.masking, chunk_size=optimiser.chunk_size)
    loss = contrastive_loss(
        model,
        temperature=optimiser.temperature or TEMPERATURE[config.objective],
        chunk_size=optimiser.chunk_size,
        rows=optimiser.batch_size // processes.num_processes,
        gather=processes.num_processes > 1,
        gradient_cache=optimiser.gradient_cache,
    )
    if config.objective == "distil":
        chunk = optimiser.chunk_size if optimiser.gradient_cache else None
        gather = processes.num_processes > 1
        return DistilLoss(model, config.teacher, chunk_size=chunk, pairs=loss, gather=gather)
    return simcse.SimcseLoss(loss) if config.objective == "simcse" else loss


def _arguments(
    config: TrainConfig, processes: PartialState, *, packed: bool = False
) -> SentenceTransformerTrainingArguments:
    """Make the arguments of the library's trainer; the packed forward chooses the dtype of its products itself."""
    optimiser = config.optimiser
    recomputing: dict[str, Any] = {}
    if optimiser.gradient_checkpointing:
        # Not reentrant, as the reentrant kind needs inputs with gradients, which frozen embeddings do not have.
        recomputing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=config.output,
        seed=config.seed,
        # The sampler yields whole batches, each of one data set; every process takes its piece.
        per_device_train_batch_size=optimiser.batch_size // processes.num_processes,
        accelerator_config={"split_batches": True},
        dataloader_drop_last=True,
        multi_dataset_batch_sampler=partial(RatioSampler, config=config),
        # Makes the trainer tell the collator a batch's data set; the collator knows the rest.
        prompts=cast(dict[str, str], {part.name: {} for part in config.parts}),
        max_steps=optimiser.steps,
        optim="adamw_torch",
        learning_rate=optimiser.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=optimiser.warmup_steps,
        weight_decay=optimiser.weight_decay,
        max_grad_norm=optimiser.max_gradient_norm,
        bf16=optimiser.precision == "bfloat16" and not (packed and config.adapter.rank),
        save_strategy="steps",
        save_steps=config.checkpoint.every,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        use_cpu=processes.device.type == "cpu",
        **recomputing,
    )
    # The configuration decides, not ACCELERATE_MIXED_PRECISION, which the library reads and `accelerate launch` sets.
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"
    # One device per process: with several, the library would copy the model to all of them at every step.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _callbacks(
    model: SentenceTransformer, config: TrainConfig, scores: Scores | None, console: Console | None
) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [FreedMemory()]
    run = Path(config.output)
    if config.checkpoint.models:
        callbacks.append(_Models(model, config))
    if scores is not None:
        callbacks.append(scores)
    if config.tensorboard:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations.integration_utils import TensorBoardCallback

        callbacks.append(TensorBoardCallback(SummaryWriter(str(run / TENSORBOARD))))  # type: ignore[no-untyped-call]
    if console is not None:
        callbacks.append(TrainingProgress(console))
    return callbacks


class _Models(TrainerCallback):
    """Saves a model, for ``echoembed.load``, with every checkpoint."""

    def __init__(self, model: SentenceTransformer, config: TrainConfig) -> None:
        self.model = model
        self.config = config

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the model of the step that a run resumes from, if it was killed before that was done."""
        if state.global_step and not self._folder(state).exists():
            self.on_save(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the model of the current step, whose checkpoint was just written."""
        if state.is_world_process_zero:
            export.save_model(self.model, self.config, self._folder(state))

    def _folder(self, state: TrainerState) -> Path:
        return step_folder(Path(self.config.output) / MODELS, state.global_step)
