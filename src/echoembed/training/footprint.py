"""A model without its numbers: what a run would train, and what it would take of memory, before any weight is loaded.

Torch's ``meta`` device builds the model's layers with shapes alone. LoRA is put on them as in a run, so that what is
trained is counted rather than worked out; and a forward pass over them tells which states the backward pass keeps.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from echoembed import errors
from echoembed.model import backbone
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.recipe import Recipe
from echoembed.sources.adapters import find as find_adapter
from echoembed.sources.adapters import is_adapter
from echoembed.sources.resolve import resolve
from echoembed.training.adapter import add_lora, trains_end_token
from echoembed.training.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOAT, ADAM = 4, 8  # bytes of a weight or gradient in float32, and of AdamW's two moments of it
_PROBE = 16  # tokens


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A model's layers without weights, LoRA among them, and its tokenizer.

    Attributes:
        name: The model's name.
        model: On the device ``meta``; what is to be trained requires gradients.
        pieces: The tokenizer.
        context: Most tokens that the model reads at once; None for no limit.
        parameters: Numbers in the model itself.
        lora: Numbers that LoRA trains; 0 where the whole model is trained.
        end_token: Numbers of the end token's embedding, where it is trained beside LoRA.
    """

    name: str
    model: PreTrainedModel
    pieces: PieceTokenizer
    context: int | None
    parameters: int
    lora: int
    end_token: int

    @property
    def trained(self) -> int:
        """How many numbers are trained."""
        return self.lora + self.end_token or self.parameters


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """What a process needs at least, in bytes; without the allocator's own, and without what the framework takes.

    Attributes:
        weights: All of them, in float32; and those of the layers once more where the forward pass is in bfloat16.
        gradients: Of what is trained, in float32.
        optimiser: AdamW's two moments of what is trained, in float32.
        activations: What the backward pass keeps of the texts it holds, at the longest prompt seen; None if it cannot
            be told.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int | None

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimiser + (self.activations or 0)


def build(config: TrainConfig, recipe: Recipe) -> Skeleton:
    """The model of a run, without its weights. Its files are fetched if they are on the hub, as the run would.

    Raises:
        ModelError: If it cannot be found or read.
        TrainingError: If LoRA's targets are not in it.
    """
    from transformers import AutoModel, AutoTokenizer

    name: str | None = config.model or None
    revision = config.revision or None
    if is_adapter(name):
        assert name is not None
        name, revision = find_adapter(name).base.model, None
    source = resolve(name, revision=revision)
    folder = source.folder / _inner(source.folder)
    settings = backbone.read_config(folder, source.name, recipe.attention)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModel.from_config(settings, dtype=torch.float32)  # type: ignore[no-untyped-call]
    except Exception as error:  # transformers has no common base
        raise errors.model_unreadable(source.name, str(error)) from error
    count = int(settings.num_hidden_layers)
    if (kept := recipe.layer_of(count) % (count + 1)) < count:
        backbone.drop_layers(model, source.name, kept)
    copies = max(recipe.template("query").copies, recipe.template("document").copies)
    parameters = sum(weight.numel() for weight in model.parameters())
    if config.adapter.rank:
        add_lora(model, config.adapter)
    return Skeleton(
        name=source.name,
        model=model,
        pieces=PieceTokenizer(tokenizer),
        context=backbone.context_length(model, tokenizer.model_max_length, copies=copies),
        parameters=parameters,
        lora=sum(weight.numel() for weight in model.parameters() if weight.requires_grad) if config.adapter.rank else 0,
        end_token=_width(model) if config.adapter.rank and trains_end_token(recipe, config.adapter) else 0,
    )


def _width(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[1])


def _inner(folder: Path) -> str:
    """Where in a folder the model's own files are: below it, in one that sentence-transformers saved."""
    path = folder / "modules.json"
    return str(json.loads(path.read_text(encoding="utf-8"))[0]["path"]) if path.is_file() else ""


def memory(skeleton: Skeleton, config: TrainConfig, longest: int, *, columns: int = 1) -> MemoryUse:
    """What a process needs to train; with GradCache one chunk of one column is in memory at a time.

    Args:
        skeleton: The model.
        config: The run.
        longest: Tokens of the longest prompt, to which a chunk may be padded.
        columns: Most readings of a row.
    """
    half = config.optimiser.precision == "bfloat16"
    kept = _kept_per_token(skeleton.model, half=half)
    activations = None
    if kept is not None:
        layers = int(skeleton.model.config.num_hidden_layers)
        if config.optimiser.gradient_checkpointing:  # each layer's input, and one layer's insides at a time
            kept = layers * _width(skeleton.model) * (2 if half else 4) + kept / max(1, layers)
        rows, batch = config.optimiser.chunk_size, config.optimiser.batch_size
        cached = config.optimiser.gradient_cache or config.objective == "mntp"  # which recomputes its chunks itself
        if rows >= batch or not cached:
            rows = batch * columns
        activations = round(rows * longest * kept)
    return MemoryUse(
        weights=skeleton.parameters * (FLOAT + 2 * half) + FLOAT * skeleton.lora,
        gradients=FLOAT * skeleton.trained,
        optimiser=ADAM * skeleton.trained,
        activations=activations,
    )


def _kept_per_token(model: PreTrainedModel, *, half: bool) -> float | None:
    """Bytes that the backward pass keeps for each token, weights apart; None where the layers cannot run so.

    Here attention keeps its scores, which grow with the square of the length; the fused attention of a run does not.
    Two lengths T and 2T tell the two apart: kept(T) = aT + bT², so a = (4 kept(T) - kept(2T)) / 2T.
    """
    nn.Module.to(model, torch.bfloat16 if half else torch.float32).train()
    short, twice = _kept(model, _PROBE), _kept(model, 2 * _PROBE)
    return None if short is None or twice is None else (4 * short - twice) / (2 * _PROBE)


def _kept(model: PreTrainedModel, length: int) -> int | None:
    """Bytes that the backward pass of one sequence keeps, weights apart."""
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    ids_BT = torch.zeros(1, length, dtype=torch.long, device="meta")
    mask_B1TT = torch.ones(1, 1, length, length, dtype=torch.bool, device="meta")
    for mask in (mask_B1TT, torch.ones_like(ids_BT)):  # the first spares most families a look at its numbers
        kept.clear()
        with (
            contextlib.suppress(RuntimeError, ValueError, TypeError, NotImplementedError),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            model(input_ids=ids_BT, attention_mask=mask, use_cache=False)
            weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
            return int(sum(storage.nbytes() for key, storage in kept.items() if key not in weights))
    return None
