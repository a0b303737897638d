"""An exported folder gives our vectors where our package is missing, and nothing where its recipe would be ignored."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel

import echoembed
from child import ENVIRONMENT, WITHOUT_US
from echoembed.integrations.export import export_self_contained
from two_sides import DOCUMENTS, QUERY

CHILD = (
    WITHOUT_US
    + """
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({folder!r}, trust_remote_code=True, device="cpu")
import echoembed
assert Path(echoembed.__file__).is_relative_to({folder!r}), echoembed.__file__
np.savez({out!r}, documents=model.encode_document({documents!r}), query=model.encode_query({query!r}))
"""
)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export_self_contained(model, tmp_path_factory.mktemp("export") / "model")


def test_plain_sentence_transformers_gives_our_vectors_without_our_package(exported, sides, tmp_path):
    code = CHILD.format(folder=str(exported), out=str(tmp_path / "out.npz"), documents=DOCUMENTS, query=QUERY)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    vectors = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(vectors["documents"], sides[0], atol=1e-6)
    np.testing.assert_allclose(vectors["query"], sides[1], atol=1e-6)


def test_a_calibration_is_exported_with_the_code_that_reads_it(tmp_path):
    model = echoembed.calibrate(
        echoembed.load("tiny", device="cpu"), [f"{text} {n}" for n in range(8) for text in DOCUMENTS]
    )
    folder = export_self_contained(model, tmp_path / "model")
    code = CHILD.format(folder=str(folder), out=str(tmp_path / "out.npz"), documents=DOCUMENTS, query=QUERY)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["documents"], model.encode_document(DOCUMENTS), atol=1e-6)


@pytest.mark.parametrize("load", [AutoConfig.from_pretrained, AutoModel.from_pretrained, SentenceTransformer])
def test_loaders_that_would_ignore_the_recipe_fail(exported, folder, load):
    for place in (str(exported), folder):
        with pytest.raises((ValueError, OSError)):
            load(place)


def test_no_weights_lie_where_a_loader_without_the_recipe_would_find_them(exported, folder):
    """TEI, vLLM and llama.cpp's converter read config.json and the weights of the root."""
    for place in (exported, Path(folder)):
        names = {path.name for path in place.iterdir()}
        assert not {"config.json", "model.safetensors", "tokenizer.json"} & names


def test_an_export_is_whole_or_not_there(model, tmp_path, monkeypatch):
    monkeypatch.setattr("echoembed.integrations.export.shutil.copytree", _full)
    with pytest.raises(echoembed.errors.FileError):
        export_self_contained(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def _full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_library_in_rust_that_meets_a_full_disk_is_one_line_too(model, tmp_path, monkeypatch):
    """tokenizers raises an Exception of no class of its own."""

    def full(*_, **__):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", full)
    monkeypatch.setattr("transformers.tokenization_utils_base.PreTrainedTokenizerBase.save_pretrained", full)
    with pytest.raises(echoembed.errors.FileError, match=r"'[^']*model' cannot be written: No space left on device"):
        echoembed.save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_our_own_loader_reads_it_and_runs_none_of_its_code(exported, sides, tmp_path):
    import shutil

    folder = shutil.copytree(exported, tmp_path / "model")
    for path in [folder / "echo_module.py", *(folder / "code").rglob("*.py")]:
        path.write_text("raise SystemExit('the code of the folder ran')\n")
    again = echoembed.load(folder)
    np.testing.assert_allclose(again.encode_document(DOCUMENTS), sides[0], atol=1e-6)
    np.testing.assert_allclose(again.encode_query([QUERY])[0], np.ravel(sides[1]), atol=1e-6)
