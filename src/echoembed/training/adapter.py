"""Which weights are trained: LoRA on the linear layers and the end token's embedding, or the whole model.

LoRA (Hu et al. 2021) adds two small matrices to a linear layer W: W x + (alpha / rank) B A x. Only A and B are trained.
The paper pools the end token, whose embedding a pretrained model may never have trained, so that it is trained too
(section "fine-tuning"). The paper does not say which layers it adapts; we adapt all linear layers.

Shapes: V tokens of the vocabulary, D width of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import nn

from echoembed import errors, versions
from echoembed.model.transformer import transformer_of
from echoembed.recipe import Kind, Recipe
from echoembed.training.tables import AdapterConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel

LORA = ".lora_"
TOKENS = ".trainable_tokens_delta."


def add_adapter(model: SentenceTransformer, config: AdapterConfig, *, seed: int = 0) -> list[str]:
    """Put LoRA on a model, or unfreeze the whole model, so that only the weights to train require gradients.

    Args:
        model: From ``echoembed.load``; changed in place.
        config: The adapter; rank 0 trains the whole model.
        seed: The seed of LoRA's initial weights; the global random state does not change.

    Returns:
        The names of the parameters that will be trained, in the model's order.

    Raises:
        TrainingError: If the targets are not in the model, or it has no end token to train.
    """
    transformer = transformer_of(model)
    end_token = trains_end_token(transformer.recipe, config)
    if end_token and transformer.pieces.eos is None:
        raise errors.adapter_end_token_missing(transformer.name)
    if end_token or config.rank == 0:
        # If the end token is also the padding token, as in Llama, torch would give its embedding no gradient. Padding
        # gets no gradient in any case, as no token attends to it and it is not pooled.
        embeddings: Any = transformer.model.get_input_embeddings()
        embeddings.padding_idx = None
    if config.rank == 0:
        transformer.model.requires_grad_(True)
        return _trainable(model)
    tokens = [transformer.pieces.eos] if end_token and transformer.pieces.eos is not None else None
    layers = add_lora(transformer.model, config, tokens=tokens, seed=seed)
    _check(model, layers, end_token=end_token)
    return _trainable(model)


def trains_end_token(recipe: Recipe, config: AdapterConfig) -> bool:
    """Return whether to train the end token's embedding: as configured, else if a template pools the end token."""
    if config.end_token is not None:
        return config.end_token
    parts = [part for kind in get_args(Kind) for part in recipe.template(kind).parts]
    return any(part.slot == "eos" and part.pooled for part in parts)


def add_lora(
    model: PreTrainedModel, config: AdapterConfig, *, tokens: list[int] | None = None, seed: int = 0
) -> list[str]:
    """Put peft's LoRA on the linear layers of a language model.

    Args:
        model: The model, changed in place; it may be on torch's ``meta`` device.
        config: The adapter, with a rank above 0.
        tokens: Ids of tokens whose embeddings are trained too.
        seed: The seed of LoRA's initial weights; the global random state does not change.

    Returns:
        The full names of the layers with LoRA.

    Raises:
        TrainingError: If a target is no linear layer of the model.
        LibraryError: If peft is not installed, or does not work with the installed transformers.
    """
    with versions.needed("peft", extra="peft", purpose="Training an adapter"):
        from peft import LoraConfig, TaskType
    layers = _targets(model, config.targets)
    if not layers:
        raise errors.adapter_layers_missing(type(model).__name__)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # A saved adapter records the targets, so that peft's own word "all-linear" is kept. In mixtures of experts it
        # would also stand for the experts' matrices, which are parameters of three dimensions and no linear layers.
        in_a_word = config.targets == "all-linear" and all(weight.ndim < 3 for weight in model.parameters())
        model.add_adapter(
            LoraConfig(
                r=config.rank,
                lora_alpha=cast(int, config.alpha),  # peft's annotation says int, but it takes any number
                lora_dropout=config.dropout,
                target_modules="all-linear" if in_a_word else layers,
                trainable_token_indices=tokens,
                task_type=TaskType.FEATURE_EXTRACTION,
            )
        )
    return layers


def _targets(model: nn.Module, targets: str | tuple[str, ...]) -> list[str]:
    """Return the full names of the linear layers to adapt; a target is a layer's name, or the end of one."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    linear = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    if targets == "all-linear":
        return linear
    names = [targets] if isinstance(targets, str) else list(targets)
    missing = [target for target in names if not any(_named(name, target) for name in linear)]
    if missing:
        raise errors.adapter_targets_unknown(missing, sorted({name.rpartition(".")[2] for name in linear}))
    return [name for name in linear if any(_named(name, target) for target in names)]


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _trainable(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _check(model: SentenceTransformer, layers: list[str], *, end_token: bool) -> None:
    """Assert that only two matrices of each layer and, if configured, the end token's row will be trained."""
    transformer = transformer_of(model)
    expected = {f"{layer}{LORA}{matrix}.default.weight" for layer in layers for matrix in "AB"}
    trained = set(_trainable(transformer.model))
    rows = {name for name in trained if TOKENS in name}
    wrong = sorted((trained - rows) ^ expected)
    assert not wrong, f"LoRA is on other layers than was asked: {wrong}"
    assert len(rows) == end_token, f"embeddings to train: {sorted(rows)}"
    assert len(_trainable(model)) == len(trained), "a module after the language model would be trained"
