"""Adapters in training, saved beside the merged weights of a checkpoint, so that a run can resume from it.

A saved model holds merged weights, which any loader reads, but from which the adapter cannot be recovered. So a model
that is saved before its adapter is merged (as trainers save checkpoints) has the adapter's weights in a further file. A
trainer that resumes, or returns to its best checkpoint, loads the checkpoint as a model and copies its state into the
model in training. The two hooks here carry the adapter's weights across.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from echoembed import errors

if TYPE_CHECKING:
    from echoembed.model.transformer import EchoTransformer

FILE = "adapter_in_training.safetensors"
_MARK = "adapter_in_training."


def is_live(model: nn.Module) -> bool:
    """Return whether a model has an adapter that is not merged."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def write(model: nn.Module, folder: Path) -> None:
    """Write all weights that training an adapter changes, by their names in the model; no file without an adapter."""
    if not is_live(model):
        (folder / FILE).unlink(missing_ok=True)  # which an earlier save may have left there
        return
    from safetensors.torch import save_file

    trained = {key: weight.requires_grad for key, weight in model.named_parameters()}
    state = {key: value for key, value in model.state_dict().items() if trained.get(key) or ".default" in key}
    save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, folder / FILE)


def carry(module: EchoTransformer, folder: Path) -> EchoTransformer:
    """Add the adapter's weights to the state of a module that was loaded from a checkpoint."""
    if not (folder / FILE).is_file():
        return module
    from safetensors.torch import load_file

    weights = load_file(folder / FILE)

    def add(_: nn.Module, state: dict[str, Any], prefix: str, __: object) -> None:
        state.update({f"{prefix}{_MARK}{key}": value for key, value in weights.items()})

    module.register_state_dict_post_hook(add)  # type: ignore[no-untyped-call]
    return module


def receive(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Change a state before it is loaded: the adapter takes its own weights, and the frozen weights stay.

    Raises:
        ModelError: If the state holds only merged weights, from which the adapter cannot be recovered.
    """
    weights: dict[str, Tensor] = {}
    for key in [key for key in state if key.startswith(f"{prefix}{_MARK}")]:
        weights[key.removeprefix(f"{prefix}{_MARK}")] = state.pop(key)
    model: Any = module.model
    current = model.state_dict()
    if not is_live(model) or f"{prefix}model.{next(key for key in current if '.default' in key)}" in state:
        return
    if missing := [key for key in current if ".default" in key and key not in weights]:
        raise errors.adapter_merged_already(missing[0])
    for key in [key for key in state if key.startswith(f"{prefix}model.")]:
        del state[key]
    state.update({f"{prefix}model.{key}": weights.get(key, value) for key, value in current.items()})
