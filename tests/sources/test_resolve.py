"""A name becomes a folder of whole, safe files with an exact revision, or one line that says what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

import echoembed
from echoembed import errors
from echoembed.sources.resolve import Source, resolve
from fake_hub import FakeHub

TINY = Path(echoembed.__file__).parent / "tiny"
NAME = "org/model"
TOKENIZER = {name: (TINY / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
UNSAFE = {
    "pytorch_model.bin": b"pickle",
    "model.pt": b"pickle",
    "modeling_x.py": b"raise SystemExit('remote code ran')",
    "tokenization_x.py": b"raise SystemExit('remote code ran')",
    "consolidated.safetensors": b"the same weights once more",
    "model.onnx": b"graph",
    "model-q4.gguf": b"blocks",
    "openvino/openvino_model.bin": b"graph",
    "checkpoint-10/model.safetensors": b"an older model",
    "original/config.json": b"{}",
    "README.md": b"# A model",
}
INDEX = "model.safetensors.index.json"


def weights(value: float = 1.0, *names: str) -> bytes:
    return save({name: np.full((40, 50), value, dtype=np.float32) for name in names or ("w",)})


def config(**more: object) -> bytes:
    return json.dumps({"model_type": "llama", "auto_map": {"AutoModel": "modeling_x.X"}, **more}).encode()


def model(value: float = 1.0) -> dict[str, bytes]:
    return {"config.json": config(), **TOKENIZER, "model.safetensors": weights(value)}


def sharded() -> dict[str, bytes]:
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"a": files[0], "b": files[1]}}
    shards = {files[0]: weights(1, "a"), files[1]: weights(2, "b")}
    return {"config.json": config(), **TOKENIZER, INDEX: json.dumps(index).encode(), **shards}


def with_modules() -> dict[str, bytes]:
    rows = [{"path": path, "type": "x"} for path in ("", "1_Pooling", "2_Dense", "3_Normalize")]
    return {
        **model(),
        "modules.json": json.dumps(rows).encode(),
        "1_Pooling/config.json": b"{}",
        "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": weights(3),
        "2_Dense/pytorch_model.bin": b"pickle",
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def listed(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refused(match: str, *args: object, kind: type[Exception] = errors.ModelError, **more: object) -> str:
    with pytest.raises(kind) as caught:
        resolve(*args, **more)
    message = str(caught.value)
    assert isinstance(caught.value, errors.EchoembedError)
    assert re.search(match, message), message
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub:
        hub.use(monkeypatch, tmp_path / "home")
        monkeypatch.chdir(tmp_path)  # no folder of the checkout may be taken for a model
        yield hub


@pytest.fixture
def impatient(monkeypatch):
    """The client waits a second between its five attempts; a test need not."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def offline(monkeypatch):
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


# The revision is exact


def test_a_branch_becomes_the_commit_it_points_at(hub):
    first = hub.commit(NAME, model(1))
    second = hub.commit(NAME, model(2))
    assert first != second
    source = resolve(NAME)
    assert (source.name, source.revision, source.origin) == (NAME, second, "hub")
    assert source.folder.name == second


def test_a_pinned_older_revision_gives_the_older_bytes(hub):
    old = hub.commit(NAME, model(1))
    hub.commit(NAME, model(2))
    hub.commit(NAME, model(3), branch="refs/pr/1")
    for revision, value in ((old, 1), (None, 2), ("main", 2), ("refs/pr/1", 3), (old, 1)):
        source = resolve(NAME, revision=revision)
        assert load((source.folder / "model.safetensors").read_bytes())["w"][0, 0] == value


def test_a_branch_that_moves_is_followed(hub):
    hub.commit(NAME, model(1))
    resolve(NAME)
    moved = hub.commit(NAME, model(2))
    assert resolve(NAME).revision == moved


def test_a_second_load_downloads_nothing(hub):
    sha = hub.commit(NAME, with_modules())
    first = resolve(NAME)
    assert "model.safetensors" in hub.downloads()
    hub.requests.clear()
    assert resolve(NAME) == first
    assert len(hub.requests) == 1  # which commit is it today?
    hub.requests.clear()
    assert resolve(NAME, revision=sha) == first
    assert hub.requests == []


def test_a_source_refuses_an_inexact_revision_and_a_folder_that_is_not_there(tmp_path):
    for revision in ("main", "abc", "A" * 40, "a" * 41, "a" * 40 + "\n"):
        with pytest.raises(errors.ModelError, match="40 hexadecimal digits"):
            Source(name="x", folder=tmp_path, revision=revision, origin="hub")
    with pytest.raises(errors.ModelError, match="does not exist"):
        Source(name="x", folder=tmp_path / "no", revision="a" * 40, origin="hub")


# Only safe files arrive


def test_only_safe_files_are_downloaded(hub):
    files = model()
    hub.commit(NAME, {**files, **UNSAFE})
    source = resolve(NAME)
    assert listed(source.folder) == set(files)
    assert set(hub.downloads()) == set(files)


def test_modules_bring_their_settings_and_safetensors_only(hub):
    files = with_modules()
    hub.commit(NAME, {**files, **UNSAFE})
    assert listed(resolve(NAME).folder) == set(files) - {"2_Dense/pytorch_model.bin"}


def test_one_file_of_weights_is_preferred_to_shards_beside_it(hub):
    hub.commit(NAME, {**sharded(), **model()})
    assert {name for name in listed(resolve(NAME).folder) if name.endswith(".safetensors")} == {"model.safetensors"}


def test_shards_come_as_the_index_names_them(hub):
    files = sharded()
    hub.commit(NAME, {**files, "model-00003-of-00003.safetensors": weights(), **UNSAFE})
    assert listed(resolve(NAME).folder) == set(files)


def test_names_that_look_like_patterns_fetch_nothing_else(hub):
    files = {**model(), "tokenizer_[ab]*.json": b"{}"}
    hub.commit(NAME, {**files, "tokenizer_axy.json.py": b"raise SystemExit"})
    assert listed(resolve(NAME).folder) == set(files)


def test_sentencepiece_and_adapter_arrive(hub):
    files = {
        "config.json": config(),
        "tokenizer.model": b"sp",
        "model.safetensors": weights(),
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": weights(2),
    }
    hub.commit(NAME, {**files, "adapter_model.bin": b"pickle"})
    assert listed(resolve(NAME).folder) == set(files)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model.safetensors": None, **UNSAFE}, "pickled weights .*model.pt.*refused.*save_pretrained"),
        ({"model.safetensors": None}, "no weights to load.*model.safetensors.index.json"),
        ({"model.safetensors": None, "model-q4.gguf": b""}, "no weights to load"),
        ({"config.json": None}, "has no config.json"),
        ({"config.json": None, "adapter_config.json": b"{}"}, "only an adapter.*merge_and_unload"),
        ({"tokenizer.json": None}, "has no tokenizer"),
        ({"config.json": b"{"}, "config.json.* is broken: JSONDecodeError"),
        ({"config.json": b"[]"}, "holds a list, not a dict"),
        ({"tokenizer.json": b'{"a": '}, "tokenizer.json.* is broken"),
        ({"modules.json": b'[{"path": "../other"}]'}, "path inside the model's folder"),
        ({"modules.json": b"[3]"}, "path inside the model's folder"),
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, r"pickled weights \(adapter_model.bin\)"),
        ({"model.safetensors": None, INDEX: b"{}"}, "no weight_map"),
        ({"model.safetensors": None, INDEX: b'{"weight_map": {"a": "../x.safetensors"}}'}, "names the file"),
        ({"model.safetensors": None, INDEX: b'{"weight_map": {"a": "s/x.safetensors"}}'}, "names the file"),
        ({"model.safetensors": None, INDEX: b'{"weight_map": {"a": "x.bin"}}'}, "names the file 'x.bin'"),
        ({"model.safetensors": None, INDEX: b'{"weight_map": {"a": "x.safetensors"}}'}, "lacks 1 file.*x.safetensors"),
        (
            {"modules.json": b'[{"path": "2_Dense"}]', "2_Dense/pytorch_model.bin": b"x"},
            "pickled weights .*2_Dense/pytorch_model.bin",
        ),
    ],
)
@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_model_that_cannot_be_loaded_is_refused_alike(hub, tmp_path, place, change, match):
    files = {name: content for name, content in {**model(), **change}.items() if content is not None}
    hub.commit(NAME, files)
    refused(match, NAME if place == "hub" else write(tmp_path / "m", files))
    assert set(hub.downloads()) <= set(files) - set(UNSAFE)


# What the hub refuses


def test_an_unknown_model_says_what_to_do(hub):
    message = refused(r"no model 'org/nothing'", "org/nothing")
    assert "hf auth login" in message
    assert "path of a folder" in message
    refused("no model 'org/nothing@", "org/nothing", revision="a" * 40)


def test_a_gated_model_says_where_to_accept_and_how_to_log_in(hub):
    hub.commit(NAME, model())
    hub.gate(NAME)
    message = refused("is gated", NAME, revision="main")
    assert f"{hub.url}/{NAME}," in message
    assert "hf auth login" in message


def test_an_unknown_revision_is_named(hub):
    hub.commit(NAME, model())
    refused("'org/model' has no revision 'v9'", NAME, revision="v9")
    refused("has no revision '0{40}'", NAME, revision="0" * 40)
    refused("has no revision ' '", NAME, revision=" ")


@pytest.mark.parametrize("status", [403, 429])
def test_another_refusal_gives_its_status(hub, status):
    hub.commit(NAME, model())
    hub.fail(status)
    refused(f"answered {status}", NAME)


@pytest.mark.parametrize("name", ["org--x/y", "x.git", "-x", "a" * 97, "org/model@main", "\0", "ünï", "", " ", 3, b"x"])
def test_names_that_cannot_be_are_refused_without_a_request(hub, name):
    refused("is not a model's name", name)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["./no", "../no", "/no", "~/no-such", "~no-such-user/x", "a/b/c", "a\\b", Path("no")])
def test_paths_that_do_not_exist_are_not_looked_up_on_the_hub(hub, name):
    refused("does not exist", name)
    assert hub.requests == []


# Interruptions


def test_a_dropped_connection_is_resumed(hub, impatient):
    files = model()
    hub.commit(NAME, files)
    hub.cut("model.safetensors", after=1000)
    assert (resolve(NAME).folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert hub.downloads().count("model.safetensors") == 2


def test_a_download_that_breaks_off_is_an_error_and_the_next_call_completes_it(hub, impatient):
    files = sharded()
    hub.commit(NAME, files)
    last = "model-00002-of-00002.safetensors"
    hub.cut(last, after=0, times=6)
    message = refused("broke off", NAME)
    assert "load it again" in message
    # Never accepted: not offline either, where the client itself has no list of what should be there.
    refused(f"incomplete or damaged: {last}", NAME, local_files_only=True)
    folder = resolve(NAME).folder
    assert {name: (folder / name).read_bytes() for name in listed(folder)} == files


def test_a_killed_download_leaves_nothing_that_is_taken_for_a_model(hub, tmp_path):
    files = model()
    hub.commit(NAME, files)
    hub.stall("model.safetensors", after=1000)
    code = f"from echoembed.sources.resolve import resolve; resolve({NAME!r})"
    with subprocess.Popen([sys.executable, "-c", code], env=hub.env(tmp_path / "home")) as child:
        assert hub.stalled.wait(30)
        child.kill()
    assert list((tmp_path / "home").rglob("*.incomplete"))  # it was killed in the midst of it
    refused("incomplete or damaged: model.safetensors", NAME, local_files_only=True)
    assert (resolve(NAME).folder / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_full_disk_and_a_closed_cache_are_said_so(hub, monkeypatch):
    hub.commit(NAME, model())
    for number, match in ((errno.ENOSPC, "disk is full"), (errno.EROFS, "not writable")):

        def fail(*_args: object, number: int = number, **_more: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
        refused(match, NAME, kind=errors.FileError)


def test_a_damaged_file_in_the_cache_is_refused_offline_and_fetched_again_online(hub):
    files = model()
    hub.commit(NAME, files)
    path = resolve(NAME).folder / "model.safetensors"
    path.resolve().write_bytes(files["model.safetensors"][:-100])
    refused("damaged: model.safetensors", NAME, local_files_only=True)
    assert (resolve(NAME).folder / "model.safetensors").read_bytes() == files["model.safetensors"]


# Offline


@pytest.mark.parametrize("way", ["argument", "environment", "no connection", "hub is down"])
def test_after_a_download_the_model_is_there_without_a_network(hub, offline, way):
    old = hub.commit(NAME, model(1))
    resolve(NAME, revision=old)
    hub.commit(NAME, with_modules())
    online = resolve(NAME)
    if way == "environment":
        offline()
    elif way == "no connection":
        hub.close()
    elif way == "hub is down":
        hub.fail(503)
    hub.requests.clear()
    local = way == "argument"
    assert resolve(NAME, local_files_only=local) == online
    assert resolve(NAME, revision=old, local_files_only=local).revision == old
    assert way == "hub is down" or hub.requests == []


def test_what_was_never_downloaded_is_refused_without_a_network(hub, offline, impatient):
    refused("not in the cache.*local_files_only", NAME, local_files_only=True)
    refused("not in the cache", NAME, revision="a" * 40, local_files_only=True)
    hub.close()
    refused("cannot be reached.*HF_ENDPOINT", NAME)
    refused("cannot be reached", NAME, revision="a" * 40)
    offline()
    refused("not in the cache", NAME)


@pytest.mark.parametrize("lost", [*sharded(), "1_Pooling/config.json", "2_Dense/model.safetensors"])
def test_a_partial_cache_is_never_accepted_offline(hub, lost):
    hub.commit(NAME, {**with_modules(), **sharded()} if "/" in lost else sharded())
    folder = resolve(NAME).folder
    assert resolve(NAME, local_files_only=True).folder == folder
    (folder / lost).unlink()
    refused(f"incomplete or damaged: {lost}", NAME, local_files_only=True)
    assert lost in listed(resolve(NAME).folder)  # and a connection mends it


@pytest.mark.parametrize("lost", [None, "config.json", "tokenizer.json", "model-00002-of-00002.safetensors"])
def test_a_cache_that_another_tool_filled_is_judged_by_what_is_in_it(hub, tmp_path, lost):
    sha = hub.commit(NAME, sharded())
    resolve(NAME)
    (repo,) = (tmp_path / "home" / "hub").glob("models--*")
    moved = tmp_path / "home" / "hub" / "models--org--other"  # a path whose list is not remembered either
    repo.rename(moved)
    shutil.rmtree(moved / "trees")
    if lost is None:
        assert resolve("org/other", local_files_only=True).revision == sha
    else:
        (moved / "snapshots" / sha / lost).unlink()
        refused("incomplete or damaged: ", "org/other", local_files_only=True)


# Folders


def test_a_folder_wins_over_the_hub_and_keeps_its_name(hub, tmp_path):
    write(tmp_path / "org" / "model", model())
    source = resolve(NAME)
    assert (source.name, source.folder, source.origin) == (NAME, tmp_path / "org" / "model", "folder")
    assert resolve(tmp_path / "org" / "model").revision == source.revision
    assert hub.requests == []


def test_a_folder_has_no_revisions_and_a_file_is_no_folder(tmp_path):
    folder = write(tmp_path / "m", model())
    refused("Leave it out", folder, revision="main")
    refused("Leave it out", revision="main")
    refused("is a file", folder / "config.json")
    refused("is a file", "/dev/null")
    os.mkfifo(folder / "pipe")
    refused("is a file", folder / "pipe")


def test_files_that_the_system_will_not_read_are_said_so(tmp_path, monkeypatch):
    def fail(file, _digest):
        raise PermissionError(errno.EACCES, "Permission denied", file.name)

    monkeypatch.setattr("hashlib.file_digest", fail)
    refused("cannot be read: PermissionError", write(tmp_path / "m", model()), kind=errors.FileError)


def test_the_hash_of_a_folder_is_that_of_what_decides_the_vectors(tmp_path):
    files = {**sharded(), **with_modules(), "config_sentence_transformers.json": b"{}"}
    del files["model.safetensors"], files["2_Dense/pytorch_model.bin"]
    original = resolve(write(tmp_path / "a", files)).revision
    assert re.fullmatch("[0-9a-f]{40}", original)
    same = dict(reversed(files.items()))
    assert resolve(write(tmp_path / "b", {**same, **UNSAFE, "generation_config.json": b"{}"})).revision == original

    seen = {original}
    for name, content in files.items():
        # One byte: in a tensor's last value, or a blank after the JSON.
        changed = content[:-1] + bytes([content[-1] ^ 1]) if name.endswith(".safetensors") else content + b" "
        seen.add(resolve(write(tmp_path / "c", {**files, name: changed})).revision)
    assert len(seen) == 1 + len(files)


def test_the_hash_tells_names_from_contents(tmp_path):
    one = resolve(write(tmp_path / "a", {**model(), "vocab.json": b"{}"}))
    two = resolve(write(tmp_path / "b", {**model(), "vocab_2.json": b"{}"}))
    assert one.revision != two.revision


def test_the_bundled_model_is_there_and_its_hash_is_that_of_a_copy(hub, tmp_path):
    source = resolve("tiny")
    assert (source.name, source.folder, source.origin) == ("tiny", TINY, "bundled")
    assert resolve("Tiny") == source
    assert resolve(shutil.copytree(TINY, tmp_path / "copy")).revision == source.revision
    assert hub.requests == []


# Weights


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda whole: b"", "header too small"),
        (lambda whole: whole[:5], "header"),
        (lambda whole: whole[:60], "header"),
        (lambda whole: whole[:-1], "not fully covered"),
        (lambda whole: whole + b"x", "not fully covered"),
        (lambda whole: b"<html>Sign in</html>" * 50, "header"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "header"),
    ],
)
def test_damaged_safetensors_are_refused_by_name(hub, tmp_path, damage, match):
    files = sharded()
    name = "model-00002-of-00002.safetensors"
    files[name] = damage(files[name])
    folder = write(tmp_path / "m", files)
    with pytest.raises(errors.ModelError, match=f"{name}' is damaged: .*{match}"):
        resolve(folder)
    hub.commit(NAME, files)
    refused(f"{name}' is damaged", NAME)


def test_a_shard_without_the_tensors_it_should_hold_is_refused(tmp_path):
    files = sharded()
    files["model-00002-of-00002.safetensors"] = weights(2, "c")
    refused("tensor 'b' of the index is not in it", write(tmp_path / "m", files))


@pytest.mark.parametrize("named", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
def test_a_tensor_in_two_shards_is_refused_whichever_the_index_names(named, tmp_path):
    files = sharded()
    index = json.loads(files[INDEX])
    index["weight_map"]["c"] = named
    files[INDEX] = json.dumps(index).encode()
    for number, own in ((1, "a"), (2, "b")):
        files[f"model-0000{number}-of-00002.safetensors"] = weights(number, own, "c")
    refused("tensor 'c' is in model-0000[12]-of-00002.safetensors too", write(tmp_path / "m", files))


# End to end


def test_the_environment_alone_finds_the_hub_and_what_arrives_can_be_loaded(hub, tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=8192, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "saved", max_shard_size="300KB")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert INDEX in saved
    sha = hub.commit("llama-tiny", {**saved, **TOKENIZER, **UNSAFE})

    code = """if True:
        import sys
        from echoembed.sources.resolve import resolve
        heavy = {"torch", "transformers", "huggingface_hub", "sentence_transformers", "numpy"} & set(sys.modules)
        assert not heavy, heavy
        source = resolve("llama-tiny")
        assert "torch" not in sys.modules
        print(source.revision, source.folder)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub.env(tmp_path / "child"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    revision, folder = done.stdout.split()
    assert revision == sha
    assert Path(folder).is_relative_to(tmp_path / "child")

    tokens = AutoTokenizer.from_pretrained(folder)(["read me twice"], return_tensors="pt")
    states = [
        AutoModel.from_pretrained(place, use_safetensors=True)(tokens["input_ids"]).last_hidden_state
        for place in (folder, tmp_path / "saved")
    ]
    assert torch.equal(*states)
