"""Forwards in which tokens see what comes after them, by way of the last token, and attention read backwards.

A causal model's early tokens know nothing of the later ones; the last token has read them all. A recipe's ``hindsight``
lets all tokens see the last one, in layers A to B (counted from 1):

- ``slot-A-B``: before each of these layers, the state of the token in front of the text becomes that of the last token.
  (Fu et al. 2025, "Token prepending": the slot is a token of its own there, which the template can have: ``*{text}``.)
- ``keys-A-B``: in these layers, every token attends to the last token's key and value too, as if they stood first, with
  the position that they have (Tang and Yang 2026, "KV-Embedding").

Pooling ``attention-mean`` reads attention backwards: each pooled token gathers its own state and those of the pooled
tokens after it, weighted by how much they attend to it. Of all layers and heads, the strongest attention counts. That
of later tokens counts half, as the attention matrix and its transpose are averaged. The vector is the mean of what all
pooled tokens have gathered (Duan et al. 2025, "Retrieval backward attention").

All three need the padded forward; this file computes its attention, plainly. What is changed for such a forward does
nothing in other threads.

Shapes: B prompts, T tokens of the longest, K keys, H heads, E width of a head, D width of the model, S pooled tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn

from echoembed import errors
from echoembed.engine import attention as packed
from echoembed.engine.engine import LOCK
from echoembed.model.padded import Rows, in_parts
from echoembed.model.pooling import pad
from echoembed.prompts.template import Rendered
from echoembed.recipe import Kind, Recipe, hindsight_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from echoembed.model.transformer import EchoTransformer

NAME = "echoembed_hindsight"
REASON = "the recipe lets tokens see or weigh later ones, which the padded forward alone does"
"""Why the packed engine does not run."""


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One forward.

    Attributes:
        name: What errors call the model.
        last_B: The place of each prompt's last token.
        slot_B: The place of the token in front of each prompt's text.
        kind: The kind of hindsight.
        layers: The layers of it, counted from 1.
        gathers: Whether the strongest attention is kept.
        strongest_BTT: How much each query token attends to each key token, in the layer and head where that is most.
        called: Whether the model has called the attention.
    """

    name: str
    last_B: Tensor
    slot_B: Tensor
    kind: str
    layers: range
    gathers: bool
    strongest_BTT: Tensor | None = None
    called: bool = False

    @property
    def asks(self) -> tuple[str, str]:
        """The field of the recipe that asks for this forward, and its value."""
        if self.kind == "none":
            return "pooling", "attention-mean"
        return "hindsight", f"{self.kind}-{self.layers.start}-{self.layers.stop - 1}"


_ACTIVE: ContextVar[_Pass | None] = ContextVar("active_hindsight", default=None)


def check(transformer: EchoTransformer) -> None:
    """Refuse a recipe that looks back where the model cannot, or where the packed engine is asked for.

    Raises:
        ModelError: If the model ends before the layers of the hindsight, nothing stands in front of the text, the
            packed engine is asked for, or a forward shows that the model's attention cannot be replaced.
    """
    recipe, layers = transformer.recipe, transformer.layers
    if not recipe.looks_back:
        return
    kind, _, last = hindsight_parts(recipe.hindsight)
    if last > layers:
        allowed = f"one that ends at layer {layers} at most, as far as {transformer.name} runs"
        raise errors.ModelError.bad_value("hindsight", recipe.hindsight, allowed)
    if recipe.pooling == "attention-mean" and not layers:
        raise errors.ModelError.bad_value("pooling", "attention-mean", "another at layer 0, which has no attention")
    reader = replace(transformer.reader, overflow="ignore", beside=())
    if kind == "slot" and not all(reader.render(["a"], task=task)[0].prefix for task in get_args(Kind)):
        raise errors.ModelError.bad_value("hindsight", recipe.hindsight, "a template with a token in front of the text")
    if transformer.running.engine == "packed" or transformer.running.deterministic:
        raise errors.model_engine_unsupported(transformer.name, REASON)
    prompts = reader.render(["a"])
    features = batch_to_device(pad(prompts, transformer.pad_id), transformer.model.device)
    with torch.inference_mode():
        run(transformer.model, recipe, prompts, features)


def run(
    model: PreTrainedModel, recipe: Recipe, prompts: Sequence[Rendered], features: dict[str, Tensor], **kwargs: Any
) -> tuple[Any, list[Tensor] | None]:
    """Run a model with the recipe's hindsight.

    Args:
        model: The language model, without its head.
        recipe: The recipe.
        prompts: B prompts.
        features: The same prompts as ``pad`` makes tensors of them, on the model's device.
        kwargs: Further arguments of the model's forward.

    Returns:
        The model's output, and the weight ``_S`` of each pooled state of each prompt, for pooling ``attention-mean``.

    Raises:
        ModelError: If the model computes its attention in a way of its own, which cannot be replaced.
    """
    weights: dict[int, Tensor] = {}

    def forward(rows: Rows, columns: slice) -> Any:
        places = range(len(prompts))[rows] if isinstance(rows, slice) else rows
        part = {name: features[name][rows, columns] for name in ("input_ids", "attention_mask")}
        output, own = _run(model, recipe, [prompts[place] for place in places], part, **kwargs)
        weights.update(zip(places, own, strict=True) if own else ())
        return output

    output = in_parts(model, features["attention_mask"], forward)
    return output, [weights[place] for place in range(len(prompts))] if weights else None


def _run(
    model: PreTrainedModel, recipe: Recipe, prompts: Sequence[Rendered], features: dict[str, Tensor], **kwargs: Any
) -> tuple[Any, list[Tensor] | None]:
    """Run prompts that take the same rotary positions, as ``run`` does."""
    kind, begin, end = hindsight_parts(recipe.hindsight)
    active = _Pass(
        name=str(model.name_or_path),
        last_B=torch.tensor([len(prompt.ids) - 1 for prompt in prompts], device=model.device),
        slot_B=torch.tensor([prompt.prefix - 1 for prompt in prompts], device=model.device),
        kind=kind,
        layers=range(begin, end + 1),
        gathers=recipe.pooling == "attention-mean",
    )
    with _replaced(model, active):
        ids_BT, mask_BT = features["input_ids"], features["attention_mask"]
        output = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, **kwargs)
    if not active.gathers:
        return output, None
    assert active.strongest_BTT is not None  # the attention was called
    pairs = zip(active.strongest_BTT, prompts, strict=True)
    return output, [_read_backwards(strongest_TT[slice(*p.span), slice(*p.span)]) for strongest_TT, p in pairs]


def _read_backwards(strongest_SS: Tensor) -> Tensor:
    """Return the weights ``_S`` of states, from how much each pooled token attends to each earlier one and itself."""
    backwards_SS = (strongest_SS + strongest_SS.T).triu() / 2
    return (backwards_SS / backwards_SS.sum(dim=1, keepdim=True)).mean(dim=0)


@contextmanager
def _replaced(model: PreTrainedModel, active: _Pass) -> Iterator[None]:
    """Let the model run with hindsight inside a ``with`` block."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
    own = active.kind == "keys" or active.gathers
    with LOCK:
        before = model.config._attn_implementation
        hooks = [_layers(model)[layer - 1].register_forward_pre_hook(_fill_slot, with_kwargs=True)
                 for layer in active.layers if active.kind == "slot"]  # fmt: skip
        token = _ACTIVE.set(active)
        try:
            if own:
                model.config._attn_implementation = NAME
            yield
        finally:
            model.config._attn_implementation = before
            _ACTIVE.reset(token)
            for hook in hooks:
                hook.remove()
    if own and not active.called:
        raise errors.model_without_hindsight(active.name, *active.asks)


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    count = int(model.config.num_hidden_layers)
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    if len(stacks) != 1:
        raise errors.model_layer_unsupported(str(model.name_or_path))
    return stacks[0]


def _fill_slot(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Give the slot the last token's state, before a layer."""
    active = _ACTIVE.get()
    if active is None:  # another thread's forward
        return None
    states_BTD: Tensor = (args[0] if args else kwargs["hidden_states"]).clone()
    row_B = torch.arange(len(states_BTD), device=states_BTD.device)
    states_BTD[row_B, active.slot_B] = states_BTD[row_B, active.last_B]
    return ((states_BTD, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": states_BTD})


def _mask(**kwargs: Any) -> Tensor | None:
    """Make an additive mask, which is never left out."""
    from transformers.masking_utils import eager_mask, sdpa_mask

    mask: Tensor | None = (sdpa_mask if _ACTIVE.get() is None else eager_mask)(**kwargs)
    return mask


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Stand in for transformers' attention: ``query``, ``key`` and ``value`` are ``_BHTE``, the result ``_BTHE``."""
    active = _ACTIVE.get()
    if active is None:  # another thread's forward
        return packed.attention(module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, **kwargs)
    # 1. Refuse attention of other kinds.
    layer = getattr(module, "layer_idx", None)
    if attention_mask is None or layer is None or kwargs.get("s_aux") is not None or kwargs.get("position_bias"):
        raise errors.model_without_hindsight(active.name, *active.asks)
    active.called = True
    # 2. Put the last token's key and value first, where all see them.
    mask_B1TK, extra = attention_mask.float(), 0
    if active.kind == "keys" and layer + 1 in active.layers:
        row_B = torch.arange(len(key), device=key.device)
        key, value = (
            torch.cat([states_BHKE[row_B, :, active.last_B][:, :, None], states_BHKE], dim=2)
            for states_BHKE in (key, value)
        )
        mask_B1TK, extra = nn.functional.pad(mask_B1TK, (1, 0)), 1
    # 3. Attend, in float32.
    groups = query.shape[1] // key.shape[1]
    key_BHKE, value_BHKE = (states.repeat_interleave(groups, dim=1).float() for states in (key, value))
    scores_BHTK = query.float() @ key_BHKE.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores_BHTK = torch.tanh(scores_BHTK / softcap) * softcap
    weights_BHTK = (scores_BHTK + mask_B1TK).softmax(dim=-1)
    if active.gathers:
        most_BTT = weights_BHTK[..., extra:].amax(dim=1)
        before = active.strongest_BTT
        active.strongest_BTT = most_BTT if before is None else torch.maximum(before, most_BTT)
    return (weights_BHTK @ value_BHKE).to(query.dtype).transpose(1, 2).contiguous(), None
