"""Trained models and adapters: what they were trained on, and what cannot be trained or written."""

from __future__ import annotations

from collections.abc import Iterable

from echoembed.errors.base import FileError, ModelError, near, quoted


def adapter_unknown(name: object, bundled: Iterable[str]) -> ModelError:
    """A name that is neither a folder, nor bundled, nor on the hub."""
    known = list(bundled)
    listed = ", ".join(known) if known else "none"
    hint = near(name, known) if isinstance(name, str) else ""
    return ModelError(
        f"Got adapter = {quoted(name, 80)}, which is no folder and does not come with the package. Allowed: a folder "
        f"that a training run wrote, a name OWNER/NAME on the hub, or one of the package's own ({listed}).{hint}"
    )


def adapter_foreign(name: str, file: str) -> ModelError:
    """An adapter that says neither its recipe nor its base."""
    return ModelError(
        f"The adapter {name} has no {file}, which says with which recipe and on which weights it was trained. Allowed: "
        "adapters that echoembed trained. Name any other in a recipe: adapters = ['...'] beside its checkpoint."
    )


def adapter_file_broken(name: str, file: str, reason: str) -> ModelError:
    """An adapter whose own description is broken."""
    return ModelError(
        f"The adapter {name} has an unreadable {file} ({quoted(reason, 120)}). It must be as the training wrote it: "
        "copy or fetch the adapter again."
    )


def adapter_base_missing(adapter: str, base: str, reason: str) -> ModelError:
    """An adapter whose base is not where it was."""
    return ModelError(
        f"The adapter {adapter} was trained on {base}, which cannot be loaded: {quoted(reason, 160)}. Say where those "
        "weights are: load(model='...', adapter='...')."
    )


def adapter_other_base(adapter: str, wanted: str, wanted_revision: str, got: str, revision: str) -> ModelError:
    """An adapter on other weights than its own."""
    return ModelError(
        f"The adapter {adapter} was trained on {wanted} at revision {wanted_revision}, but got {got} at {revision}. On "
        "other weights it means nothing: leave model= out, or name exactly those weights."
    )


def adapter_nothing_to_save(name: str) -> ModelError:
    """A model without an adapter, to be saved as one."""
    return ModelError(
        f'{name} has no adapter to save: all of its weights were trained, or none. Save it whole (save = "merged").'
    )


def trained_weights_not_finite(name: str) -> ModelError:
    """Weights that training has spoilt."""
    return ModelError(
        f"The weights trained on {name} are not all finite numbers: they are not saved. Go on from a checkpoint before "
        "that, with a smaller learning rate."
    )


def head_missing(name: str, tensor: str) -> ModelError:
    """A checkpoint without the head that predicts tokens."""
    return ModelError(
        f"{name} has no {tensor}, with which a language model predicts tokens; models saved for embedding have lost "
        "it. Masked next-token prediction needs the whole language model: name the one that this came from."
    )


def mntp_mask_token(token: str, count: int) -> ModelError:
    """A mask that is not one token."""
    return ModelError(
        f"Got masking.token = {quoted(token)}, which is {count} tokens of this model. Allowed: a text that is "
        "one token of its tokenizer. Try '_', or another single character."
    )


def mntp_model_unfit(name: str, fault: str, allowed: str) -> ModelError:
    """A model or recipe that masked next-token prediction cannot train."""
    return ModelError(
        f"{name} cannot be trained by masked next-token prediction: {fault}. Allowed: {allowed}. Change that first."
    )


def mntp_nothing_to_predict(count: int) -> ModelError:
    """A batch in which no token has one before it."""
    return ModelError(
        f"None of the {count} texts of a batch has a token that follows another, so there is nothing to predict. "
        "Give longer texts."
    )


def dropout_bad(dropout: object) -> ModelError:
    """A dropout under which SimCSE has nothing to tell apart, or nothing left."""
    return ModelError(
        f"Got dropout = {quoted(dropout)}. Allowed: a number between 0 and 1, both excluded: SimCSE compares two "
        "readings of a text that differ by dropout alone. The paper of LLM2Vec has 0.3."
    )


def dropout_without_effect(name: str) -> ModelError:
    """A model whose attention knows no dropout."""
    return ModelError(
        f"{name} gives the same states twice although dropout was asked for: its attention has none. SimCSE would "
        "compare equal vectors: choose another model, or the objective contrastive."
    )


def training_output_unwritable(path: object, reason: str) -> FileError:
    """A file of a run that cannot be written or read."""
    return FileError(
        f"{path} cannot be used: {quoted(reason, 120)}. The run's folder must be writable: free some room."
    )
