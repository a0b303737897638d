"""The language model under a recipe: loaded safely, with the recipe's attention and layer, both proved by a probe.

The probe is a short sequence whose last token is edited. Under causal attention the edit must not change the earlier
states; under bidirectional attention it must. Padding must not change states, and a model cut at a layer must give the
whole model's states of that layer.

Shapes: B sequences, T tokens, D width of the model.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from echoembed import errors
from echoembed.model.sizes import check_sizes
from echoembed.model.trust import LOADING, safe_config
from echoembed.numerics import TOLERANCE, VISIBLE, relative_difference
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.prompts.reader import Reader
from echoembed.prompts.template import Rendered, Template
from echoembed.recipe import Attention, Kind, Recipe
from echoembed.sources.files import ADAPTER_CONFIG
from echoembed.sources.settings import reason

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PROBE_LENGTH = 12
_BUFFERS = ("rotary_emb.inv_freq", "masked_bias", "attn.bias", "attention.bias")  # saved by older versions


def read_config(folder: Path, name: str, attention: Attention) -> PreTrainedConfig:
    """Read the model's configuration, and set it to the recipe's attention.

    Raises:
        ModelError: If the configuration cannot be read, the model is no causal or masked language model, or it cannot
            have the recipe's attention.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    config = safe_config(folder, name)
    kind = str(config.model_type)
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    is_decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and (not masked or getattr(config, "is_decoder", False))
    if not (masked or is_decoder) or getattr(config, "is_encoder_decoder", False):
        raise errors.model_not_language_model(name, kind)
    if not is_decoder and attention == "causal":
        raise errors.model_attention(name, "causal", "it is a masked language model, in which every token sees all")
    if attention == "bidirectional" and (fixed := _layers_without_attention(config)):
        raise errors.model_attention(name, "bidirectional", f"its layers of type {fixed} read from left to right only")
    pad, size = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and not 0 <= pad < size:
        config.pad_token_id = None  # older configurations write -1 for no padding token
    if is_decoder:
        config.is_causal = attention == "causal"
    config.use_cache = False
    # What a forward gives back, and how, is ours to say.
    config.return_dict, config.output_hidden_states, config.output_attentions = True, False, False
    return config


def _layers_without_attention(config: PreTrainedConfig) -> str:
    """Return a layer type that ignores masks, as in hybrids of attention and recurrence; "" if there is none."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    return next((str(kind) for kind in kinds if kind == "linear_attention" or not str(kind).endswith("attention")), "")


def load_model(
    folder: Path, name: str, config: PreTrainedConfig, dtype: torch.dtype, *, cut: bool = False
) -> PreTrainedModel:
    """Load the model without its head, from safetensors, in evaluation mode.

    Args:
        folder: The folder of the weights.
        name: What errors call the model.
        config: From ``read_config``.
        dtype: The dtype of the weights in memory.
        cut: Whether the folder holds a model that was cut at a layer, which has no final norm.

    Raises:
        ModelError: If transformers refuses the model, or weights are missing, which would silently be random.
    """
    from transformers import AutoModel

    check_sizes(folder, name, config)
    small = sum(file.stat().st_size for file in folder.glob("*.safetensors")) < 2**30
    try:
        with quiet(bar=not small), _without_adapter(folder) as whole:
            model, info = AutoModel.from_pretrained(
                whole,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # also ImportError, for quantised weights
        raise errors.model_unreadable(name, reason(error)) from error
    wrong = sorted(map(str, [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]))
    wrong = [key for key in wrong if not key.startswith("pooler.")]  # BERT's pooler: not used, often not saved
    if cut:
        drop_layers(model, name, int(config.num_hidden_layers))
        left = model.state_dict()
        wrong = [key for key in wrong if key in left]
    if wrong:
        raise errors.model_weights_missing(name, wrong)
    # The weights of a head may be unused. An unused weight of a layer shows that the configuration is another model's.
    inside = re.compile(r"(^|\.)\d+\.")
    unused = [key for key in map(str, info["unexpected_keys"]) if inside.search(key) and not key.endswith(_BUFFERS)]
    if unused and not cut:
        raise errors.model_weights_unused(name, sorted(unused))
    return model.train(False)  # type: ignore[no-any-return]


@contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """Yield a view of a folder without the adapter in it, which transformers would add unchecked and unmerged."""
    if not (folder / ADAPTER_CONFIG).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as view:
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("adapter_"):
                (Path(view) / path.name).symlink_to(path.resolve())
        yield Path(view)


@contextmanager
def quiet(*, bar: bool) -> Iterator[None]:
    """Silence transformers' reports of what is checked here and, without ``bar``, its progress bar."""
    from transformers.utils import logging

    with LOADING:
        verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        if not bar:
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if had_bar:
                logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def context_length(model: PreTrainedModel, tokenizer_limit: int | None, *, copies: int = 1) -> int | None:
    """Return the most tokens that the model reads at once, or None where nothing limits them (as with ALiBi).

    Args:
        model: The model.
        tokenizer_limit: The limit that its tokenizer states.
        copies: How many copies of the text a prompt holds. The second copy must attend to the first, so that a prompt
            may not be longer than the window where every layer has a sliding window.
    """
    config = model.config
    positions = getattr(config, "max_position_embeddings", None)
    limits = [positions] if isinstance(positions, int) and positions > 0 else []
    for name, module in model.named_modules():
        # RoBERTa and similar models number positions from the padding id up, which leaves fewer of them for tokens.
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    if tokenizer_limit is not None and 0 < tokenizer_limit < 10**6:  # "unlimited" is written as 1e30
        limits.append(tokenizer_limit)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if copies > 1 and isinstance(window, int) and getattr(config, "use_sliding_window", True) and len(kinds) == 1:
        limits += [window] * ("sliding_attention" in kinds)
    return min(limits, default=None)


def cut_at_layer(model: PreTrainedModel, name: str, layer: int) -> int:
    """Remove the layers after ``layer`` and the final norm, in place.

    Args:
        model: The whole model.
        name: What errors call the model.
        layer: 0 for the token embeddings, k for the k-th layer; negative numbers count from the end, -1 is the last.

    Returns:
        The number of layers that are left.

    Raises:
        ModelError: If there is no such layer, or the cut model's states are not that layer's.
    """
    count = int(model.config.num_hidden_layers)
    if not -count - 1 <= layer <= count:
        raise errors.model_layer(name, layer, count)
    kept = layer if layer >= 0 else layer + count + 1
    if kept == count:
        return count
    ids_BT = _probe(model)[:1]
    with hooks_taken_back(model):
        expected_BTD = _forward(model, ids_BT, output_hidden_states=True).hidden_states[kept]
    drop_layers(model, name, kept)
    if relative_difference(_states(model, ids_BT), expected_BTD) > TOLERANCE[model.dtype]:
        raise errors.model_layer_unsupported(name)
    return kept


@contextmanager
def hooks_taken_back(model: PreTrainedModel) -> Iterator[None]:
    """Take back the hooks by which transformers reads hidden states: a model that has them cannot be pickled.

    Pickling is what encoding by several processes needs.
    """
    modules = list(model.modules())
    before = [(set(module._forward_hooks), set(vars(module))) for module in modules]
    try:
        yield
    finally:
        for module, (hooks, names) in zip(modules, before, strict=True):
            for key in module._forward_hooks.keys() - hooks:
                del module._forward_hooks[key]
            for name in vars(module).keys() - names:
                if "hooks_installed" in name:
                    delattr(module, name)


def drop_layers(model: PreTrainedModel, name: str, kept: int) -> None:
    """Keep only the first ``kept`` layers, without the final norm, in place and without proof.

    Raises:
        ModelError: If the list of layers cannot be found.
    """
    count = int(model.config.num_hidden_layers)
    stacks = [
        (parent, child)
        for parent in model.modules()
        for child, module in parent.named_children()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if len(stacks) != 1:
        raise errors.model_layer_unsupported(name)
    parent, child = stacks[0]
    setattr(parent, child, getattr(parent, child)[:kept])
    model.config.num_hidden_layers = kept
    if vars(model.config).get("layer_types"):  # their number must match, or the model cannot be saved
        model.config.layer_types = model.config.layer_types[:kept]
    after = [key for key, _ in parent.named_children()]
    for key in after[after.index(child) + 1 :]:
        if "norm" in type(getattr(parent, key)).__name__.lower():
            setattr(parent, key, nn.Identity())


@torch.no_grad()
def check_attention(model: PreTrainedModel, name: str, attention: Attention) -> None:
    """Prove by a probe that the model attends as the recipe says, and that padding changes no states.

    Raises:
        ModelError: If the model attends otherwise, or padding changes its states.
    """
    ids_BT = _probe(model)
    states_BTD = torch.cat([_states(model, ids_BT[:1]), _states(model, ids_BT[1:])])
    if not torch.isfinite(states_BTD).all():
        raise errors.model_states_not_finite(name)
    unlike = relative_difference(states_BTD[0, :1].expand_as(states_BTD[0]), states_BTD[0])
    if len(set(ids_BT[0].tolist())) > 1 and unlike <= VISIBLE[model.dtype]:
        raise errors.model_states_equal(name)
    if int(model.config.num_hidden_layers) == 0:
        return  # token embeddings attend to nothing
    early_BTD = states_BTD[:, : PROBE_LENGTH // 2]
    sees_later = relative_difference(early_BTD[0], early_BTD[1]) > VISIBLE[model.dtype]
    if sees_later and attention == "causal":
        raise errors.model_attention(name, "causal", "early tokens see later ones")
    if not sees_later and attention == "bidirectional":
        raise errors.model_attention(name, "bidirectional", "early tokens do not see later ones")

    pad = model.config.pad_token_id if isinstance(getattr(model.config, "pad_token_id", None), int) else 0
    short = PROBE_LENGTH - 4
    padded_BT = ids_BT.clone()
    padded_BT[1, short:] = pad
    mask_BT = torch.ones_like(padded_BT)
    mask_BT[1, short:] = 0
    together_BTD = _states(model, padded_BT, mask_BT)
    alone_BTD = _states(model, ids_BT[1:, :short])
    leak = max(
        relative_difference(together_BTD[0], states_BTD[0]), relative_difference(together_BTD[1, :short], alone_BTD[0])
    )
    if leak > TOLERANCE[model.dtype]:
        raise errors.model_padding_leaks(name, leak)


def _probe(model: PreTrainedModel) -> Tensor:
    """Make two sequences of ordinary ids that differ in the last id only; ``ids_BT``."""
    config = model.config
    by_role = [getattr(config, f"{role}_token_id", None) for role in ("pad", "bos", "eos", "sep", "cls", "unk")]
    special = {id_ for ids in by_role for id_ in (ids if isinstance(ids, list) else [ids])}
    size = min(int(config.vocab_size), 4096)
    ordinary = [id_ for id_ in range(size - 1, 0, -1) if id_ not in special] or [0]
    ids = [ordinary[(7 * place) % len(ordinary)] for place in range(PROBE_LENGTH + 1)]
    return torch.tensor([ids[:-1], [*ids[:-2], ids[-1]]], device=model.device)


def _forward(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor | None = None, **kwargs: object) -> Any:
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    try:
        with torch.no_grad():
            return model(input_ids=ids_BT, attention_mask=mask_BT, **kwargs)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        reason = f"{type(error).__name__} in its forward: {error}"
        raise errors.model_unreadable(str(model.name_or_path), reason) from error


def _states(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
    states_BTD: Tensor = _forward(model, ids_BT, mask_BT).last_hidden_state
    return states_BTD


def check_special_tokens(recipe: Recipe, reader: Reader, pieces: PieceTokenizer) -> None:
    """Check, at load, that BOS and EOS are where the templates put them, and nowhere else.

    Raises:
        TemplateError: If they are not.
    """
    probe = replace(reader, overflow="ignore")
    for kind in get_args(Kind):
        for row, prompt in zip(recipe.prompts, probe.render(["a b"], task=kind)[0].all, strict=True):
            _check_special_tokens(prompt, row.template(kind), pieces)


def _check_special_tokens(rendered: Rendered, template: Template, pieces: PieceTokenizer) -> None:
    ends = {"bos": pieces.bos, "eos": pieces.eos}
    expected = [ends[part.slot] for part in template.parts if part.slot in ends]
    present = [id_ for id_ in rendered.ids if id_ in ends.values()]
    if present != [id_ for id_ in expected if id_ is not None]:
        raise errors.template_special_tokens(template.source, rendered.text)
