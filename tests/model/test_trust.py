"""No code of a model's folder runs, nothing is asked on standard input, and no kernel is chosen by a folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import echoembed
import tiny_models
from echoembed.errors import ModelError
from echoembed.model import trust
from echoembed.model.backbone import quiet

CODE = """
import pathlib
(pathlib.Path(__file__).parent / "RAN").touch()
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin
class Tok(PreTrainedTokenizerFast): ...
class Config(PreTrainedConfig): model_type = "mine"
class Model(PreTrainedModel): config_class = Config
class Processor(ProcessorMixin): ...
class Image: ...
class Module: ...
"""
TOKENIZER = {"AutoTokenizer": ["code.Tok", "code.Tok"]}
MODEL = {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoModelForCausalLM": "code.Model"}
PROCESSOR = {"AutoProcessor": "code.Processor", "AutoImageProcessor": "code.Image", **TOKENIZER}
# name, file, what is put into it, whether the library has a class of its own for the model
FILES = [
    ("a foreign tokenizer", "tokenizer_config.json", {"auto_map": TOKENIZER, "tokenizer_class": "Tok"}, False),
    (
        "as older versions name it",
        "tokenizer_config.json",
        {"auto_map": ["code.Tok", None], "tokenizer_class": "Tok"},
        0,
    ),
    (
        "a foreign tokenizer upstream",
        "tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": ["o/r--code.Tok", None]}},
        1,
    ),
    ("a known tokenizer", "tokenizer_config.json", {"auto_map": TOKENIZER}, True),
    ("a function for a tokenizer", "tokenizer_config.json", {"auto_map": TOKENIZER, "tokenizer_class": "pipeline"}, 0),
    ("a processor by the tokenizer", "tokenizer_config.json", {"auto_map": PROCESSOR}, False),
    ("a known model", "config.json", {"auto_map": {**MODEL, **PROCESSOR}}, True),
    ("a known model upstream", "config.json", {"auto_map": {"AutoModel": "owner/repo--code.Model"}}, True),
    ("a foreign model", "config.json", {"auto_map": MODEL, "model_type": "mine"}, False),
    ("a model without a type", "config.json", {"auto_map": MODEL, "model_type": None}, False),
    ("inside", "config.json", {"text_config": {"auto_map": MODEL, "model_type": "mine"}}, False),
    ("a tokenizer by the model", "config.json", {"auto_map": MODEL, "tokenizer_class": "Tok"}, True),
    ("a processor", "processor_config.json", {"auto_map": PROCESSOR, "processor_class": "Processor"}, False),
    ("a known processor", "processor_config.json", {"auto_map": PROCESSOR, "processor_class": "LlavaProcessor"}, False),
    ("a picture's processor", "preprocessor_config.json", {"auto_map": PROCESSOR}, False),
    ("a film's processor", "video_preprocessor_config.json", {"auto_map": PROCESSOR}, False),
    ("generation", "generation_config.json", {"custom_generate": "code", "auto_map": MODEL}, True),
]
CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import echoembed
outcomes = {}
for folder in sys.argv[1:]:
    try:
        echoembed.load(folder, device="cpu").encode("the cat sat")
        outcomes[folder] = ""
    except echoembed.errors.EchoembedError as error:
        outcomes[folder] = str(error)
print(json.dumps([outcomes, sys.stdin.read()]))
"""
ANSWERS = "y\n" * 50 + "the cat sat\n"


def with_code(folder: Path, file: str, content: dict[str, object]) -> Path:
    """The folder with Python code and a settings file that names it."""
    (folder / "code.py").write_text(CODE)
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({key: value for key, value in {**old, **content}.items() if value is not None}))
    return folder


def test_no_file_that_names_code_has_it_run_or_asked_for(tmp_path):
    folders = {
        str(with_code(Path(shutil.copytree(tiny_models.folder("llama"), tmp_path / name)), file, content)): known
        for name, file, content, known in FILES
    }
    saved = echoembed.save(echoembed.load(tiny_models.folder("llama"), device="cpu"), tmp_path / "saved")
    for number, type_ in enumerate(
        ("code.Module", "sentence_transformers.models.Router", "echoembed.model.load.code", "transformers.AutoModel")
    ):
        folder = shutil.copytree(saved, tmp_path / f"module {number}")
        rows = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps([*rows[:2], {**rows[2], "type": type_}]))
        folders[str(with_code(folder, "2_Normalize/router_config.json", {"types": {"": "code.Module"}}))] = False
    dense = shutil.copytree(saved, tmp_path / "dense")
    rows = json.loads((dense / "modules.json").read_text())
    dense_row = {"type": "sentence_transformers.models.Dense", "path": "2_Dense", "name": "2", "idx": 2}
    (dense / "modules.json").write_text(json.dumps([*rows[:2], dense_row]))
    settings = {"in_features": 32, "out_features": 8, "activation_function": "code.Module"}
    folders[str(with_code(dense, "2_Dense/config.json", settings))] = False
    inner = shutil.copytree(saved, tmp_path / "inner")
    foreign = {"auto_map": TOKENIZER, "tokenizer_class": "Tok"}
    folders[str(with_code(inner / "0_EchoTransformer", "tokenizer_config.json", foreign).parent)] = False

    child = subprocess.run(
        [sys.executable, "-c", CHILD, *folders], input=ANSWERS, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    outcomes, left = json.loads(child.stdout)
    assert left == ANSWERS
    assert not list(tmp_path.rglob("RAN"))
    for folder, known in folders.items():
        assert bool(outcomes[folder]) is not bool(known), (folder, outcomes[folder])
        assert "trust_remote_code" not in outcomes[folder]
        assert len(outcomes[folder].splitlines()) == (not known)


def test_a_model_that_the_library_has_is_the_librarys(tmp_path):
    """Old code beside it changes nothing, and is not named again where the model is saved."""
    plain = echoembed.load(tiny_models.folder("llama"), device="cpu")
    folder = with_code(
        shutil.copytree(tiny_models.folder("llama"), tmp_path / "model"), "config.json", {"auto_map": MODEL}
    )
    model = echoembed.load(folder, device="cpu")
    assert np.array_equal(model.encode("the cat sat"), plain.encode("the cat sat"))
    saved = echoembed.save(model, tmp_path / "saved")
    assert "auto_map" not in (saved / "0_EchoTransformer" / "config.json").read_text()


def test_where_transformers_would_ask_it_raises():
    """The guard of the test above: an unforeseen path ends in an error."""
    from transformers.dynamic_module_utils import resolve_trust_remote_code

    with trust.nothing_asked(), pytest.raises(ValueError, match="requires you to execute"):
        resolve_trust_remote_code(None, "owner/model", False, True)


@pytest.mark.parametrize("family", ["llama", "gpt-oss"])
@pytest.mark.parametrize(
    "named",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_3"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"_attn_implementation_internal": "flex_attention"},
        {"attn_implementation": {"": "paged|eager"}},
        {"experts_implementation": "grouped_mm"},
        {"use_kernels": True, "kernel_config": {"RMSNorm": "owner/kernels:Norm"}, "fusion_config": {"norm": True}},
        {"transformers_weights": "other.safetensors"},
    ],
)
def test_a_folder_chooses_neither_kernel_nor_file(family, named, tmp_path):
    plain = echoembed.load(tiny_models.folder(family), device="cpu", recipe="classical")
    folder = tiny_models.copy(tiny_models.folder(family), tmp_path / "model", **named)
    model = echoembed.load(folder, device="cpu", recipe="classical")
    for part in ("_attn_implementation", "_experts_implementation"):
        assert getattr(model[0].model.config, part) == getattr(plain[0].model.config, part)
    assert np.array_equal(model.encode("the cat sat"), plain.encode("the cat sat"))


def test_a_module_whose_settings_do_not_fit_is_refused(tmp_path):
    saved = echoembed.save(echoembed.load(tiny_models.folder("llama"), device="cpu"), tmp_path / "saved")
    rows = json.loads((saved / "modules.json").read_text())
    rows[2] = {"type": "sentence_transformers.models.LayerNorm", "path": "2_LayerNorm", "name": "2", "idx": 2}
    (saved / "modules.json").write_text(json.dumps(rows))
    (saved / "2_LayerNorm").mkdir()
    (saved / "2_LayerNorm" / "config.json").write_text('{"dimension": "many"}')
    with pytest.raises(ModelError, match="has an unreadable 2_LayerNorm"):
        echoembed.load(saved, device="cpu")


def _of_the_process() -> tuple[object, ...]:
    """What loading must leave as it was."""
    from transformers import dynamic_module_utils
    from transformers.utils import logging

    shown = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    return (sys.stdout, warnings.filters, warnings.showwarning, dynamic_module_utils.TIME_OUT_REMOTE_CODE, *shown)


def _in_threads(count: int, work) -> None:
    """Run the same in several threads that begin at once and take turns as often as Python lets them."""
    failed: list[BaseException] = []
    start = threading.Barrier(count)

    def run() -> None:
        try:
            start.wait()
            work()
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed


def test_models_loaded_in_threads_leave_the_process_as_it_was():
    pytest.importorskip("peft")
    before = _of_the_process()
    vectors = []
    _in_threads(4, lambda: vectors.append(echoembed.load("tiny-echo", device="cpu").encode("a")))
    assert _of_the_process() == before
    assert all((vector == vectors[0]).all() for vector in vectors)


@pytest.mark.parametrize("block", [trust.nothing_asked, lambda: quiet(bar=False)], ids=["asked", "quiet"])
def test_a_thread_does_not_keep_what_another_has_changed(block):
    before = _of_the_process()

    def enter_and_leave() -> None:
        for _ in range(2000):
            with block():
                sum(range(50))

    _in_threads(4, enter_and_leave)
    assert _of_the_process() == before


def test_what_other_threads_print_while_an_adapter_is_merged_is_printed(capsys):
    pytest.importorskip("peft")
    stop = threading.Event()
    printed = []

    def talk() -> None:
        while not stop.is_set():
            sys.stdout.write(f"{len(printed)}\n")
            printed.append(len(printed))

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        echoembed.load("tiny-echo", device="cpu")
    finally:
        stop.set()
        talker.join()
    assert [*map(int, capsys.readouterr().out.split())] == printed
