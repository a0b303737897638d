"""Models that cannot be found, fetched or read."""

from __future__ import annotations

from collections.abc import Iterable

from echoembed.errors.base import FileError, ModelError, near, quoted


def model_name_invalid(name: object, reason: str) -> ModelError:
    """A model's name that is neither a folder nor possible on the hub."""
    return ModelError(
        f"{quoted(name, 120)} is not a model's name: {reason}. A model is a local folder, a GGUF file, a name on "
        "the hub such as 'Qwen/Qwen3-0.6B', 'smollm2-135m', or 'tiny' for the bundled one. Correct the name."
    )


def model_folder_missing(name: str) -> ModelError:
    """A path at which there is no folder."""
    return ModelError(
        f"The folder {quoted(name, 200)} does not exist. A model is a local folder, or a name on the hub such as "
        "'Qwen/Qwen3-0.6B', with one slash at most. Check the path."
    )


def model_folder_is_file(name: str) -> ModelError:
    """A path at which there is a file."""
    return ModelError(
        f"{quoted(name, 200)} is a file. A model is a folder with config.json, a tokenizer and safetensors, or a "
        "file that ends in .gguf. Give the folder that holds them."
    )


def revision_not_exact(revision: object) -> ModelError:
    """A revision that may mean other bytes tomorrow."""
    return ModelError(
        f"The revision {quoted(revision, 80)} is not exact. It must be 40 hexadecimal digits, in lower case. "
        "Let echoembed.sources.resolve.resolve find it."
    )


def revision_unused(name: str, revision: str) -> ModelError:
    """A revision for a folder, a file or a package, which have no revisions."""
    return ModelError(
        f"Got revision {quoted(revision, 80)} for {quoted(name, 200)}. Only a model on the hub has revisions; that of "
        "a folder or a file is the hash of its content. Leave it out, or give the model's name on the hub."
    )


def model_config_missing(where: str) -> ModelError:
    """A folder or a model on the hub without a configuration."""
    return ModelError(
        f"{quoted(where, 200)} has no config.json. A model has config.json, a tokenizer and safetensors at its root. "
        "Give the folder or model that has them."
    )


def model_adapter_alone(where: str) -> ModelError:
    """An adapter without the model it belongs to."""
    return ModelError(
        f"{quoted(where, 200)} has no config.json, only an adapter (adapter_config.json). A model must have its own "
        "weights. Merge the adapter into its base with peft's merge_and_unload and save both model and tokenizer."
    )


def adapter_config_missing(where: str) -> ModelError:
    """An adapter without its configuration."""
    return ModelError(
        f"{quoted(where, 200)} has no adapter_config.json, so it is not an adapter. "
        "Name a folder or a repository that peft has saved."
    )


def model_tokenizer_missing(where: str) -> ModelError:
    """A folder or a model on the hub without a tokenizer."""
    return ModelError(
        f"{quoted(where, 200)} has no tokenizer. Allowed: tokenizer.json, vocab.json with merges.txt, vocab.txt, or "
        "a SentencePiece *.model. Save the tokenizer there with its save_pretrained."
    )


def model_json_broken(path: str, reason: str) -> ModelError:
    """A settings file that is not as it should be."""
    return ModelError(
        f"{quoted(path, 200)} is broken: {reason}. It must be JSON as save_pretrained writes it. "
        "Copy or download it again."
    )


def model_settings_too_large(path: str, size: int, limit: int) -> ModelError:
    """A settings file larger than any model's."""
    return ModelError(
        f"{quoted(path, 200)} has {size:,} bytes. Allowed for such a file: {limit:,}; reading more could fill the "
        "memory. Copy or download it again, or choose another model."
    )


def weights_missing(where: str) -> ModelError:
    """A model without weights in any form that can be read."""
    return ModelError(
        f"{quoted(where, 200)} has no weights to load. Allowed: model.safetensors, or model.safetensors.index.json "
        "with its shards, and adapter_model.safetensors for an adapter. Save the model with save_pretrained."
    )


def weights_pickled(where: str, files: Iterable[str]) -> ModelError:
    """Weights that can only be unpickled, which may run any code."""
    names = list(files)
    return ModelError(
        f"{quoted(where, 200)} has pickled weights ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}) and no "
        "safetensors. Pickles can run code and are refused. Convert them: where you trust the model, load it with "
        "transformers and save_pretrained() it, or use https://huggingface.co/spaces/safetensors/convert."
    )


def weights_shard_missing(where: str, files: Iterable[str]) -> ModelError:
    """An index that names missing files."""
    names = list(files)
    return ModelError(
        f"{quoted(where, 200)} lacks {len(names)} file(s) that model.safetensors.index.json names: "
        f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}. Every shard must be there. "
        "Copy or download the missing ones."
    )


def weights_damaged(path: str, reason: str) -> ModelError:
    """A safetensors file that is cut short, garbled, or another model's."""
    return ModelError(
        f"{quoted(path, 200)} is damaged: {reason}. The file must be whole and belong to this model. "
        "Copy or download it again."
    )


def hub_model_unknown(name: str, endpoint: str) -> ModelError:
    """A name that the hub does not know, or does not show to this user."""
    return ModelError(
        f"There is no model {quoted(name, 120)} at {endpoint}, or it is private. Names on the hub look like "
        "'Qwen/Qwen3-0.6B'. Check the spelling, log in with `hf auth login` for a private model, or give the path "
        "of a folder that exists."
    )


def hub_model_gated(name: str, endpoint: str) -> ModelError:
    """A model whose licence must be accepted first."""
    return ModelError(
        f"The model {quoted(name, 120)} is gated: its licence must be accepted before its files can be fetched. "
        f"Accept it at {endpoint}/{name.partition('@')[0]}, then log in with `hf auth login`."
    )


def hub_revision_unknown(name: str, revision: str) -> ModelError:
    """A branch, tag or commit that the model does not have."""
    return ModelError(
        f"The model {quoted(name, 120)} has no revision {quoted(revision, 80)}. Allowed: a branch, a tag or a commit "
        "of 40 digits. Leave it out for the main branch."
    )


def hub_refused(name: str, status: int, reason: str) -> ModelError:
    """An answer of the hub that fits no other error."""
    return ModelError(
        f"The hub answered {status} to the request for {quoted(name, 120)} ({reason}). "
        "Check your account with `hf auth whoami`, or try again later."
    )


def hub_unreachable(name: str, reason: str) -> ModelError:
    """No connection, and nothing in the cache to use instead."""
    return ModelError(
        f"The hub cannot be reached for {quoted(name, 120)} ({reason}), and the cache has no copy. "
        "Check the connection and HF_ENDPOINT, or give a local folder."
    )


def hub_not_cached(name: str, reason: str) -> ModelError:
    """Offline by choice, and nothing in the cache."""
    return ModelError(
        f"The model {quoted(name, 120)} is not in the cache ({reason}). Offline, only models that were downloaded "
        "before can be used. Load it once without local_files_only and HF_HUB_OFFLINE, or give a local folder."
    )


def hub_cache_incomplete(name: str, revision: str, missing: str) -> ModelError:
    """A download with missing or damaged files, as after an interruption."""
    return ModelError(
        f"The cached copy of {quoted(name, 120)} at {revision} is incomplete or damaged: {missing}. Every file must "
        "be there, whole. Load it once with a connection, without local_files_only and HF_HUB_OFFLINE."
    )


def hub_download_interrupted(name: str, reason: str) -> ModelError:
    """A download that broke off."""
    return ModelError(
        f"The download of {quoted(name, 120)} broke off ({reason}). No partial file is ever used. "
        "Check the connection and load it again: files that have arrived are kept."
    )


def hub_cache_full(name: str, folder: str) -> FileError:
    """No room for a download."""
    return FileError(
        f"The disk is full: {quoted(name, 120)} does not fit into {quoted(folder, 200)}. No partial file is ever used. "
        "Free some space (`hf cache rm`), or set HF_HOME to a larger disk."
    )


def hub_cache_not_writable(name: str, folder: str) -> FileError:
    """A cache that a download cannot be written to."""
    return FileError(
        f"{quoted(name, 120)} cannot be downloaded into {quoted(folder, 200)}: it is not writable. "
        "Check its permissions, or set HF_HOME to a folder of yours."
    )


# Trained adapters


def adapter_unknown(name: object, bundled: Iterable[str]) -> ModelError:
    """A name that is neither a folder, nor bundled, nor on the hub."""
    known = list(bundled)
    listed = ", ".join(known) if known else "none"
    hint = near(name, known) if isinstance(name, str) else ""
    return ModelError(
        f"Got adapter = {quoted(name, 80)}, which is no folder and does not come with the package. Name a folder "
        f"that a training run wrote, OWNER/NAME on the hub, or one of the package's own ({listed}).{hint}"
    )


def adapter_foreign(name: str, file: str) -> ModelError:
    """An adapter that names neither its recipe nor its base."""
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
    """An adapter whose base cannot be loaded."""
    return ModelError(
        f"The adapter {adapter} was trained on {base}, which cannot be loaded: {quoted(reason, 160)}. Say where those "
        "weights are: load(model='...', adapter='...')."
    )


def recipe_adapters_missing(recipe: str, checkpoint: str, model: str, reason: str) -> ModelError:
    """A recipe that merges published adapters, which cannot be had, on another model than its checkpoint."""
    return ModelError(
        f"The recipe {recipe!r} merges adapters that were published for {checkpoint} into {model!r}, and one cannot be "
        f"loaded: {quoted(reason, 160)}. Choose another recipe, or train an adapter for {model!r}: echoembed train."
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
