"""What is trained: LoRA on the linear layers and the end token's embedding, or the whole model.

LoRA (Hu et al. 2021): a linear layer W gets two small matrices beside it, W x + (alpha / rank) B A x; only A and B
learn. The paper pools the end token, whose embedding a pretrained model may never have learned, so it learns too
(section "fine-tuning"; which layers the paper adapts is not stated: here, all linear ones).

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
    """Put LoRA on a model, or free the whole of it, so that exactly what is to be trained requires gradients.

    Args:
        model: From ``echoembed.load``; changed in place.
        config: Rank 0 trains the whole model.
        seed: Decides LoRA's beginning; no other random state is touched.

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
        # Where the end token is the padding token too, as in Llama, torch would give its embedding no gradient.
        # Padding itself gets none anyway: no token attends to it and nothing pools it.
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
    """Whether the end token's embedding is trained: as the configuration says, else where a template pools it."""
    if config.end_token is not None:
        return config.end_token
    parts = [part for kind in get_args(Kind) for part in recipe.template(kind).parts]
    return any(part.slot == "eos" and part.pooled for part in parts)


def add_lora(
    model: PreTrainedModel, config: AdapterConfig, *, tokens: list[int] | None = None, seed: int = 0
) -> list[str]:
    """Put LoRA on the linear layers of a language model, as peft builds it.

    Args:
        model: Changed in place; one on torch's ``meta`` device will do.
        config: A rank above 0.
        tokens: Ids of the tokens whose embeddings are trained besides.
        seed: Decides LoRA's beginning; no other random state is touched.

    Returns:
        The full names of the layers with LoRA.

    Raises:
        TrainingError: If a target is no linear layer of the model.
        LibraryError: If peft is not installed, or does not work with the installed transformers.
    """
    with versions.needed("peft", extra="peft", purpose="Training an adapter"):
        from peft import LoraConfig, TaskType
    layers = _targets(model, config.targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # peft's own word where it applies, for a saved adapter records it.
        model.add_adapter(
            LoraConfig(
                r=config.rank,
                lora_alpha=cast(int, config.alpha),  # as peft annotates it; it takes any number
                lora_dropout=config.dropout,
                target_modules="all-linear" if config.targets == "all-linear" else layers,
                trainable_token_indices=tokens,
                task_type=TaskType.FEATURE_EXTRACTION,
            )
        )
    return layers


def _targets(model: nn.Module, targets: str | tuple[str, ...]) -> list[str]:
    """Full names of the linear layers that get LoRA; a target names a layer, or the end of its name."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    linear = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    if targets == "all-linear":
        return linear
    wanted = [targets] if isinstance(targets, str) else list(targets)
    missing = [target for target in wanted if not any(_named(name, target) for name in linear)]
    if missing:
        raise errors.adapter_targets_unknown(missing, sorted({name.rpartition(".")[2] for name in linear}))
    return [name for name in linear if any(_named(name, target) for target in wanted)]


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _trainable(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _check(model: SentenceTransformer, layers: list[str], *, end_token: bool) -> None:
    """Assert that two matrices of each layer, the end token's row if wanted, and nothing else will be trained."""
    transformer = transformer_of(model)
    wanted = {f"{layer}{LORA}{matrix}.default.weight" for layer in layers for matrix in "AB"}
    trained = set(_trainable(transformer.model))
    rows = {name for name in trained if TOKENS in name}
    assert trained - rows == wanted, f"LoRA is on other layers than was asked: {sorted((trained - rows) ^ wanted)}"
    assert len(rows) == end_token, f"embeddings to train: {sorted(rows)}"
    assert len(_trainable(model)) == len(trained), "a module after the language model would be trained"
