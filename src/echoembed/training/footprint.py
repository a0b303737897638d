"""How many weights a run would train and how much memory it would need, before any weight is loaded.

Torch's ``meta`` device builds the model's layers with shapes alone. LoRA is put on them as in a run, so that trained
weights are counted, not estimated. A forward pass over these layers tells which states the backward pass keeps.
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
from echoembed.sources.adapters import Base, names_one
from echoembed.sources.adapters import find as find_adapter
from echoembed.sources.packaged import BUNDLED
from echoembed.sources.resolve import resolve
from echoembed.training.adapter import add_lora, trains_end_token
from echoembed.training.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOAT, ADAM = 4, 8  # bytes of a weight or gradient in float32, and of AdamW's two moments of it
_PROBE = 16  # tokens


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A model's layers without weights, with LoRA, and its tokenizer.

    Attributes:
        name: The model's name.
        model: The model on the device ``meta``; trained weights require gradients.
        pieces: The tokenizer.
        context: The most tokens that the model reads at once; None for no limit.
        parameters: The number of the model's own weights.
        cut: The layer at which the recipe cuts the model; None if it keeps all layers.
        lora: The number of weights that LoRA trains; 0 if the whole model is trained.
        end_token: The number of weights of the end token's embedding, if it is trained beside LoRA.
        missing: Bytes of weights that are still on the hub.
        base: What the weights are; None if an adapter is merged into them first.
    """

    name: str
    model: PreTrainedModel
    pieces: PieceTokenizer
    context: int | None
    parameters: int
    cut: int | None
    lora: int
    end_token: int
    missing: int
    base: Base | None

    @property
    def trained(self) -> int:
        """The number of trained weights."""
        return self.lora + self.end_token or self.parameters


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """The least memory that a process needs, in bytes, without the overhead of allocator and framework.

    Attributes:
        weights: All weights in float32; for products in bfloat16, also a copy in bfloat16.
        gradients: The gradients of trained weights, in float32.
        optimiser: AdamW's two moments of trained weights, in float32.
        activations: The states that the backward pass keeps for the texts in memory, at the length of the longest
            prompt; None if they cannot be computed.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int | None

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.gradients + self.optimiser + (self.activations or 0)


def build(config: TrainConfig, recipe: Recipe) -> Skeleton:
    """Build the model of a run without its weights. A model on the hub is fetched, but for its weights.

    Raises:
        ModelError: If the model cannot be found or read.
        TrainingError: If LoRA's targets are not in the model.
    """
    from transformers import AutoModel, AutoTokenizer

    name: str | None = config.model or None
    revision = config.revision or None
    if merged := names_one(name):
        assert name is not None
        if revision is not None:
            allowed = f"left out for the adapter {name}, which names its base"
            raise errors.TrainingError.bad_value("revision", revision, allowed)
        name = find_adapter(name).base.model or BUNDLED
    source = resolve(name, revision=revision, weights=False)
    folder = source.folder / _inner(source.folder)
    settings = backbone.read_config(folder, source.name, recipe.attention)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModel.from_config(settings, dtype=torch.float32)  # type: ignore[no-untyped-call]
    except Exception as error:  # transformers' errors have no common base
        raise errors.model_unreadable(source.name, str(error)) from error
    count = int(settings.num_hidden_layers)
    if not -count - 1 <= recipe.layer_of(count) <= count:
        raise errors.model_layer(source.name, recipe.layer_of(count), count)
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
        cut=kept if kept < count else None,
        lora=sum(weight.numel() for weight in model.parameters() if weight.requires_grad) if config.adapter.rank else 0,
        end_token=_width(model) if config.adapter.rank and trains_end_token(recipe, config.adapter) else 0,
        missing=source.missing,
        base=None if merged else Base.of(source, []),
    )


def _width(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[1])


def _inner(folder: Path) -> str:
    """Return the folder of the model's own files within a folder that may have been saved by sentence-transformers."""
    path = folder / "modules.json"
    return str(json.loads(path.read_text(encoding="utf-8"))[0]["path"]) if path.is_file() else ""


def memory(skeleton: Skeleton, config: TrainConfig, longest: int, *, columns: int = 1) -> MemoryUse:
    """Estimate the memory that a process needs; with GradCache, one chunk of one column is in memory at a time.

    Args:
        skeleton: The model.
        config: The run.
        longest: The tokens of the longest prompt, to which a chunk may be padded.
        columns: The most prompts of a row.
    """
    copied = config.optimiser.precision == "bfloat16"
    half = copied and not _forward_in_float32(config)
    per_token = _kept_per_token(skeleton.model, half=half)
    activations = None
    if per_token is not None:
        layers = int(skeleton.model.config.num_hidden_layers)
        if config.optimiser.gradient_checkpointing:  # every layer's input, and the states inside one layer at a time
            per_token = layers * _width(skeleton.model) * (2 if half else 4) + per_token / max(1, layers)
        rows, batch = config.optimiser.chunk_size, config.optimiser.batch_size
        cached = config.optimiser.gradient_cache or config.objective == "mntp"  # mntp recomputes its chunks itself
        if rows >= batch or not cached:
            rows = batch * columns
        activations = round(rows * longest * per_token)
    return MemoryUse(
        weights=skeleton.parameters * (FLOAT + 2 * copied) + FLOAT * skeleton.lora,
        gradients=FLOAT * skeleton.trained,
        optimiser=ADAM * skeleton.trained,
        activations=activations,
    )


def _forward_in_float32(config: TrainConfig) -> bool:
    """Return whether bfloat16 is for the backward pass alone: in packs on a CPU (``engine/frozen_linear.py``)."""
    packed = config.optimiser.forward != "padded" and not config.optimiser.gradient_checkpointing
    return bool(packed and config.adapter.rank) and not torch.accelerator.is_available()


def _kept_per_token(model: PreTrainedModel, *, half: bool) -> float | None:
    """Count the bytes, without weights, that the backward pass keeps per token; None if ``meta`` cannot run the layers.

    On ``meta``, attention keeps its scores, which grow with the square of the length T; the fused attention of a run
    does not. Two lengths tell the two terms apart: kept(T) = aT + bT², so a = (4 kept(T) - kept(2T)) / 2T.
    """
    nn.Module.to(model, torch.bfloat16 if half else torch.float32).train()
    short, twice = _kept(model, _PROBE), _kept(model, 2 * _PROBE)
    return None if short is None or twice is None else (4 * short - twice) / (2 * _PROBE)


def _kept(model: PreTrainedModel, length: int) -> int | None:
    """Count the bytes that the backward pass of one sequence keeps, without weights."""
    storages: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    ids_BT = torch.zeros(1, length, dtype=torch.long, device="meta")
    mask_B1TT = torch.ones(1, 1, length, length, dtype=torch.bool, device="meta")
    for mask in (mask_B1TT, torch.ones_like(ids_BT)):  # given the first, most families need not read its values
        storages.clear()
        with (
            contextlib.suppress(RuntimeError, ValueError, TypeError, NotImplementedError),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            model(input_ids=ids_BT, attention_mask=mask, use_cache=False)
            weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
            return int(sum(storage.nbytes() for key, storage in storages.items() if key not in weights))
    return None
