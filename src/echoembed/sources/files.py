"""The files of a model's folder: which of them decide its vectors, and whether they are complete and safe.

Pickled weights can run code when they are opened, so only safetensors are read.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from echoembed import errors
from echoembed.sources.settings import check_normalizer, check_size, read_json, reason

CONFIG = "config.json"
MODULES = "modules.json"
TOKENIZER = "tokenizer.json"
SAVED_CONFIG = "echoembed_config.json"
"""The file in which echoembed saves the settings of its module."""
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER = "adapter_model.safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Besides the weights, these files decide the vectors: settings of the model, of sentence-transformers and of its
# modules, and the tokenizer. The download and the hash of a folder cover these files and no others.
_SETTINGS = (
    "*config.json",
    "config_sentence_transformers.json",
    MODULES,
    _INDEX,
    "tokenizer*.json",
    "vocab*.json",
    "vocab*.txt",
    "merges*.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)
_UNUSED = "generation_config.json"
_TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"vocab.txt"})


def checked_files(folder: Path, *, adapter: bool = False) -> list[str]:
    """Check all files of a folder that decide the vectors, and return their names, sorted.

    Args:
        folder: The folder of a model or an adapter.
        adapter: Whether the folder holds an adapter, which has neither a model nor a tokenizer of its own.

    Raises:
        ModelError: A file is missing or damaged, or the weights are pickled.
    """
    modules = module_folders(folder)
    names = _names(folder, modules)
    if not adapter:
        require(str(folder), names, modules)
    weights = weight_files(str(folder), names, folder, modules, adapter=adapter)
    settings = setting_files(names, modules)
    for file in settings:
        if file.endswith(".json"):
            content = read_json(folder / file, dict if PurePosixPath(file).name == CONFIG else object)
            if PurePosixPath(file).name == TOKENIZER:
                check_normalizer(folder / file, content)
        else:
            check_size(folder / file)
    where: dict[str, str] = {}
    for file, promised in weights.items():
        for tensor in _checked_tensors(folder / file, promised):
            # transformers would take the tensor of either shard.
            if promised and where.setdefault(tensor, file) != file:
                raise errors.weights_damaged(
                    str(folder / file), f"tensor {errors.quoted(tensor)} is in {where[tensor]} too"
                )
    return sorted([*settings, *weights])


def _home(names: Collection[str], modules: Collection[str]) -> str:
    """Return the language model's folder: the root or, in models that echoembed saved, the first module's folder.

    Another library that saves one of our models may put a config.json of its own into the root.
    """
    module = next(iter(modules), "")
    ours = f"{module}/{SAVED_CONFIG}" in names or CONFIG not in names
    return f"{module}/" if ours and f"{module}/{CONFIG}" in names else ""


def _names(folder: Path, modules: Collection[str]) -> set[str]:
    """List the files in the folder's root and below its modules, but not those of checkpoints beside them."""
    paths = [*folder.iterdir(), *(path for module in modules for path in (folder / module).rglob("*"))]
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


def module_folders(folder: Path) -> list[str]:
    """Return the subfolders that sentence-transformers' modules.json names, such as ``1_Pooling``."""
    path = folder / MODULES
    rows = read_json(path, list) if path.is_file() else []
    paths = [str(row.get("path", "..")) if isinstance(row, dict) else ".." for row in rows]
    if not all(map(_stays_inside, paths)):
        raise errors.model_json_broken(str(path), "each module needs a path inside the model's folder")
    return [PurePosixPath(inner).as_posix() for inner in paths if inner not in {"", "."}]


def setting_files(names: Collection[str], modules: Collection[str]) -> list[str]:
    """Return the names of the settings and tokenizer files in the root and below the modules."""
    return sorted(
        name
        for name in names
        if ("/" not in name or _below(name, modules))
        and (last := PurePosixPath(name).name) != _UNUSED
        and any(fnmatchcase(last, pattern) for pattern in _SETTINGS)
    )


def require(where: str, names: Collection[str], modules: Collection[str]) -> None:
    """Refuse a list of files without settings or a tokenizer, before any large file is downloaded."""
    home = _home(names, modules)
    names = [name.removeprefix(home) for name in names if name.startswith(home)]
    if CONFIG not in names:
        alone = ADAPTER_CONFIG in names
        raise errors.model_adapter_alone(where) if alone else errors.model_config_missing(where)
    sentencepiece = any("/" not in name and name.endswith(".model") for name in names)
    if not sentencepiece and not any(files <= set(names) for files in _TOKENIZERS):
        raise errors.model_tokenizer_missing(where)


def weight_files(
    where: str, names: Collection[str], folder: Path, modules: Collection[str], *, adapter: bool = False
) -> dict[str, set[str]]:
    """Return the safetensors files to load, each with the tensors that it must contain according to the index.

    Args:
        where: The folder or the model, for messages.
        names: Files in the folder, or on the hub.
        folder: The folder with the index, if there is one.
        modules: Subfolders of modules, whose safetensors belong to the model.
        adapter: Whether an adapter is asked for, not a model.

    Raises:
        ModelError: The weights are missing, or not in safetensors.
    """
    files = {} if adapter else _model_weights(where, names, folder, _home(names, modules))
    files |= _adapter_weights(where, names, required=adapter)
    for module in modules:
        inside = [name for name in names if _below(name, [module])]
        tensors = [name for name in inside if name.endswith(".safetensors")]
        if not tensors and any(name.endswith(_PICKLED) for name in inside):
            raise _without_safetensors(where, inside)
        files |= {name: set() for name in tensors if name not in files}
    return files


def _model_weights(where: str, names: Collection[str], folder: Path, home: str) -> dict[str, set[str]]:
    inside = [name.removeprefix(home) for name in names if name.startswith(home)]
    if _WEIGHTS in inside:  # transformers also prefers the single file to shards beside it
        return {home + _WEIGHTS: set()}
    if _INDEX not in inside:
        raise _without_safetensors(where, [name for name in inside if "/" not in name])
    shards = {home + file: tensors for file, tensors in _shards(folder / (home + _INDEX)).items()}
    if missing := sorted(set(shards) - set(names)):
        raise errors.weights_shard_missing(where, missing)
    return shards


def _adapter_weights(where: str, names: Collection[str], *, required: bool) -> dict[str, set[str]]:
    if ADAPTER_CONFIG not in names:
        if required:
            raise errors.adapter_config_missing(where)
        return {}
    if _ADAPTER not in names:
        raise _without_safetensors(where, [name for name in names if name.startswith("adapter_model")])
    return {_ADAPTER: set()}


def _shards(index: Path) -> dict[str, set[str]]:
    """Return the shards that an index names, each with its tensors."""
    weight_map = read_json(index, dict).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise errors.model_json_broken(str(index), "it has no weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or "/" in file or not _stays_inside(file) or not file.endswith(".safetensors"):
            raise errors.model_json_broken(str(index), f"it names the file {errors.quoted(file)}")
        shards.setdefault(file, set()).add(tensor)
    return shards


def _checked_tensors(path: Path, promised: Collection[str]) -> list[str]:
    """Check that a safetensors file's header fits its length and has the promised tensors, and return its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            tensors = list(file.keys())
    except SafetensorError as error:
        raise errors.weights_damaged(str(path), reason(error)) from error
    # transformers would fill a missing tensor with random numbers, and the vectors would not be this model's.
    if missing := sorted(set(promised) - set(tensors)):
        raise errors.weights_damaged(str(path), f"tensor {errors.quoted(missing[0])} of the index is not in it")
    return tensors


def _without_safetensors(where: str, names: Collection[str]) -> errors.ModelError:
    pickled = sorted(name for name in names if name.endswith(_PICKLED))
    return errors.weights_pickled(where, pickled) if pickled else errors.weights_missing(where)


def _below(name: str, modules: Collection[str]) -> bool:
    return any(name.startswith(f"{module}/") for module in modules)


def _stays_inside(inner: str) -> bool:
    """Return whether a relative path stays inside the folder to which it is joined."""
    return not inner.startswith("/") and "\\" not in inner and ".." not in PurePosixPath(inner).parts
