"""The engine: prompts in, pooled states out, through packs without padding.

    engine = PackedEngine(causal=True)
    states_BSD, mask_BS = engine.states(model, prompts)
    states_LBSD, mask_BS = engine.states(model, prompts, layers=True)

Equal prompts are computed once. While a pack runs, some of the model's modules have replacement forwards
(``patches.py``). Their own forwards are put back after the pack, and only one pack runs at a time.

Shapes: B prompts, S tokens of the longest span, P pooled tokens of a pack, D width of the model, L layers + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from echoembed.engine import attention, int8
from echoembed.engine.last_layer import last_layer, trimmed
from echoembed.engine.pack import Layout, cut, lay_out
from echoembed.engine.patches import patched
from echoembed.engine.rotary import by_rotary
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOCK = RLock()  # shared by all engines: only one at a time may replace the modules' forwards
MEMORY = 128 * 2**20
"""The most bytes that the widest activations of a pack may take on a CPU."""
CPU_TOKENS = 2048
GPU_TOKENS = 16384


@dataclass(frozen=True, kw_only=True)
class PackedEngine:
    """The packed forward of a model.

    Attributes:
        causal: Whether attention is causal; if not, it is bidirectional.
        share_prefix: Whether the template's constant prefix is computed once per pack.
        trim: Whether the last layer computes pooled tokens only.
        fast_linear: Whether float32 products go to oneDNN (see ``onednn.py``).
        fused: Whether norms, gates and rotary positions take fewer passes over memory (see ``fused.py``).
        tokens: The most tokens of a pack; None for the number that suits the model and the device.
        solo: Whether each prompt is a pack by itself.
    """

    causal: bool
    share_prefix: bool = True
    trim: bool = True
    fast_linear: bool = True
    fused: bool = True
    tokens: int | None = None
    solo: bool = False

    def states(
        self, model: PreTrainedModel, prompts: Sequence[Rendered], *, layers: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Compute the pooled states of prompts.

        Args:
            model: The language model, without its head.
            prompts: B prompts; equal prompts are computed once.
            layers: Whether to return the states of every layer, from the same forward. They are those of transformers'
                ``output_hidden_states``: first the token embeddings, then each layer's output, the last after the norm.

        Returns:
            ``states_BSD`` (with ``layers``: ``states_LBSD``) in float32, padded with zeros on the right, and
            ``mask_BS`` in int64.
        """
        # 1. Leave out repeated prompts.
        unique = {(prompt.ids, prompt.span): prompt for prompt in prompts}
        index_of = {key: index for index, key in enumerate(unique)}
        distinct = list(unique.values())
        pooled = [prompt.span[1] - prompt.span[0] for prompt in distinct]
        # 2. Run the packs, and put the states of each prompt into its row, padded on the right.
        out: Tensor | None = None  # ``_BSD`` or ``_LBSD``
        for order, states in self.run(model, distinct, layers=layers):
            if out is None:
                shape = (*states.shape[:-2], len(distinct), max(pooled), states.shape[-1])
                out = states.new_zeros(shape, dtype=torch.float32)
            start = 0
            for index in order:
                out[..., index, : pooled[index], :] = states[..., start : start + pooled[index], :]
                start += pooled[index]
        assert out is not None
        # 3. Mark the rows' true lengths, and repeat the rows of repeated prompts.
        rows_B = torch.tensor([index_of[prompt.ids, prompt.span] for prompt in prompts])
        slot_S = torch.arange(max(pooled))
        mask_BS = (slot_S < torch.tensor(pooled)[rows_B, None]).long().to(out.device)
        if len(distinct) < len(prompts):
            out = out.index_select(-3, rows_B.to(out.device))
        return out, mask_BS

    def run(
        self, model: PreTrainedModel, prompts: Sequence[Rendered], *, verify: bool = False, layers: bool = False
    ) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Run the model over prompts, pack by pack.

        Args:
            model: The language model, without its head.
            prompts: The prompts, best without duplicates.
            verify: Whether to check that the model's masks are what the engine assumes (causal or bidirectional).
            layers: As for ``states``.

        Yields:
            For each pack, the indices of its prompts, and the states of their pooled tokens in that order: ``_PD``
            (with ``layers``: ``_LPD``) in the model's dtype.
        """
        prefix = self._prefix(prompts)
        budget = 1 if self.solo else self.most_tokens(model)
        for group in cut(prompts, prefix, budget):
            for part in by_rotary(model, [len(prompts[index].ids) for index in group]):
                layout = lay_out(prompts, [group[place] for place in part], prefix)
                yield layout.order, self._forward(model, layout, verify=verify, layers=layers)

    def most_tokens(self, model: nn.Module) -> int:
        """Return the most tokens of a pack; a longer prompt is a pack by itself."""
        return self.tokens or tokens_in_flight(model)

    def _prefix(self, prompts: Sequence[Rendered]) -> int:
        """Count the tokens that are computed once per pack: the template's constant prefix, none of it pooled.

        The prefix of a single prompt is computed in the same way, though nothing shares it: rounding must not depend on
        the other prompts of the call.
        """
        if not (self.share_prefix and self.causal) or self.solo:
            return 0
        count = min(min(prompt.prefix, prompt.span[0]) for prompt in prompts)
        return count if len({prompt.ids[:count] for prompt in prompts}) == 1 else 0

    @torch.no_grad()
    def _forward(self, model: PreTrainedModel, layout: Layout, *, verify: bool, layers: bool) -> Tensor:
        # 1. Run the model's own code over the whole pack, as one sequence without padding. Each prompt has its own
        #    positions, and our attention function keeps the prompts apart.
        layout = layout.to(model.device)
        active = attention.Pass(layout, self.causal, verify)
        with self._prepared(model, active):
            output = model(
                input_ids=layout.ids[None],
                attention_mask=torch.ones_like(layout.ids)[None],  # without a mask, transformers would look for packs
                position_ids=layout.positions[None],
                use_cache=False,
                output_hidden_states=layers,
            )
        # 2. Refuse a model that did not call our attention: its prompts have read each other.
        if not active.called:
            raise attention.UnsupportedError("it ignores the attention it is given")
        # 3. Take the states of the pooled tokens, from every layer or from the last.
        if layers:  # a trimmed last layer scatters its states back to all tokens, so every layer has as many
            return torch.stack([states_1TD[0].index_select(0, layout.pooled) for states_1TD in output.hidden_states])
        states_PD: Tensor = output.last_hidden_state[0].index_select(0, layout.pooled)
        return states_PD

    @contextmanager
    def _prepared(self, model: PreTrainedModel, active: attention.Pass) -> Iterator[None]:
        """Change the model for one pack, and change it back whatever happens."""
        with ExitStack() as stack:
            # 1. One thread at a time: the attention, and fused functions in transformers' own modules, are global.
            stack.enter_context(LOCK)
            attention.register()
            stack.enter_context(attention.packed(model))
            # 2. Replace the forwards of linear layers, norms, gates and rotations by faster ones.
            fuse = self.fused and model.device.type == "cpu"
            stack.enter_context(patched(model, fast_linear=self.fast_linear, fuse=fuse))
            # 3. Let the last layer compute only pooled tokens, unless all tokens are pooled.
            layer = last_layer(model) if self.trim else None
            if layer is not None and len(active.layout.pooled) < len(active.layout.ids):
                stack.enter_context(trimmed(layer, active))
            # 4. Tell the attention function which pack it works on.
            token = attention.ACTIVE.set(active)
            try:
                yield
            finally:
                attention.ACTIVE.reset(token)
                int8.forget(model)


def tokens_in_flight(model: nn.Module) -> int:
    """Return the number of tokens of a pack that suits the model's width and its device."""
    weight = next(model.parameters())
    if weight.device.type != "cpu":
        return GPU_TOKENS
    widest = max(1, *map(_width, model.modules()))
    return max(256, min(CPU_TOKENS, MEMORY // (4 * widest * weight.element_size())))


def _width(module: nn.Module) -> int:
    width = getattr(module, "out_features", getattr(module, "nf", 0))  # nf: GPT-2's name
    return width if isinstance(width, int) else 0
