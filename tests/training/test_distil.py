"""Distillation: the loss against one written out, and what becomes of a teacher's vectors."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import echoembed
import tiny_models
import training_runs as runs
from echoembed import errors
from echoembed.training import curves, plan, rows, run
from echoembed.training.config import CheckpointConfig, DataConfig, OptimiserConfig, TrainConfig
from echoembed.training.distil import DistilLoss, cosine_divergence
from echoembed.training.tables import TeacherConfig
from echoembed.training.teacher import STORE, Teacher

pytest.importorskip("peft")


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda _folder: [])
        yield


def cosine(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def divergence(student, teacher, student_temperature, teacher_temperature):
    """The formula, number by number."""
    total = 0.0
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        p = [math.exp(cosine(teacher[i], teacher[j]) / teacher_temperature) for j in others]
        q = [math.exp(cosine(student[i], student[j]) / student_temperature) for j in others]
        total += sum(a / sum(p) * math.log(a / sum(p) * sum(q) / b) for a, b in zip(p, q, strict=True))
    return total / len(student)


def test_the_loss_is_the_formula():
    student, teacher = runs.drawn(6, 5, 1), runs.drawn(6, 9, 2)
    got = cosine_divergence(student, teacher, student_temperature=0.3, teacher_temperature=0.2)
    assert float(got) == pytest.approx(divergence(student.tolist(), teacher.tolist(), 0.3, 0.2), rel=1e-4)


def test_a_student_with_the_teachers_cosines_has_no_loss_and_no_gradient():
    """Whatever its width and the lengths of its vectors."""
    teacher = runs.drawn(5, 4, 3)
    turned = torch.linalg.qr(runs.drawn(7, 7, 4))[0][:4]  # to another width, angles kept
    student = (teacher @ turned * torch.tensor([[1.0], [2.0], [0.5], [3.0], [1.0]])).requires_grad_()
    loss = cosine_divergence(student, teacher, student_temperature=0.05, teacher_temperature=0.05)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert float(student.grad.abs().max()) < 1e-4


def test_a_run_lowers_the_divergence_on_its_texts(tmp_path):
    config = runs.distilling(tmp_path)
    config = replace(config, optimiser=OptimiserConfig(steps=25, batch_size=18, learning_rate=0.02, warmup_steps=1))
    run.train(config)
    losses = [line["loss"] for line in runs.log(tmp_path / "run")]
    assert losses[-1] < 0.7 * losses[0]


def test_each_batch_holds_whole_groups_and_the_loss_is_of_its_texts(tmp_path, monkeypatch):
    seen = []
    usual = DistilLoss.forward

    def forward(self, features, labels=None):
        loss = usual(self, features, labels)
        seen.append((labels, float(loss.detach())))
        return loss

    monkeypatch.setattr(DistilLoss, "forward", forward)
    run.train(runs.distilling(tmp_path, pairs=True))
    logged = [line["loss"] for line in runs.log(tmp_path / "run")]
    assert [loss for _, loss in seen] == pytest.approx(logged, rel=1e-5)
    groups = [[f"the river carried boat {n}", f"boats of the river {n}"] for n in range(9)]
    known = [frozenset(tuple(np.float32(v).tolist()) for v in runs.vectors_of(group)) for group in groups]
    taught = [labels for labels, _ in seen if labels is not None]
    assert 0 < len(taught) < len(seen)  # pairs came too
    for labels in taught:
        rows_of = {tuple(row.tolist()) for row in labels}
        assert sum(group <= rows_of for group in known) == 2


def test_a_killed_run_resumes_with_the_same_end(tmp_path):
    """It ends with the weights of a run that never stopped."""
    folder = tmp_path / "whole"
    whole = runs.distilling(folder, pairs=True)
    run.train(whole)
    again = runs.distilling(tmp_path / "cut", pairs=True)
    again = replace(again, checkpoint=CheckpointConfig(every=2, keep=9))
    run.train(again)
    *_, kept, last = sorted((tmp_path / "cut/run/checkpoints").glob("step-*"))
    shutil.rmtree(last)  # the steps after the one before it are trained again
    (tmp_path / "cut/run/model/README.md").unlink()
    run.train(again, resume=True)
    assert kept.is_dir()
    assert last.is_dir()
    one, other = runs.weights(folder / "run"), runs.weights(tmp_path / "cut/run")
    assert all(torch.equal(one[name], other[name]) for name in one)


class Encoder:
    """Stands in for a SentenceTransformer."""

    def __init__(self, scale=1.0):
        self.scale = scale
        self.asked = []

    def encode(self, texts, **_):
        self.asked += texts
        return self.scale * np.array(runs.vectors_of(texts), np.float32)

    def state_dict(self):
        return {"scale": torch.tensor([self.scale])}

    def children(self):
        return iter(())


def test_a_teachers_vectors_are_computed_once_and_kept(tmp_path, monkeypatch):
    encoder = Encoder()
    monkeypatch.setattr("echoembed.training.teacher._load", lambda _name: encoder)
    config = TeacherConfig(model="any")
    texts = ["a river", "the town", "a river"]
    first = Teacher(config, tmp_path).vectors(texts)
    second = Teacher(config, tmp_path).vectors(["the town", "a mat"])
    assert encoder.asked == ["a river", "the town", "a mat"]
    assert first.tolist() == np.float32(runs.vectors_of(texts)).tolist()
    assert torch.equal(first[1], second[0])
    with sqlite3.connect(tmp_path / STORE) as store:
        assert store.execute("SELECT COUNT(*) FROM vectors").fetchone() == (4,)  # and whose they are


def test_the_vectors_of_a_call_are_stored_together_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("echoembed.training.teacher._load", lambda _name: Encoder())
    Teacher(TeacherConfig(model="any"), tmp_path).vectors(["the town"])
    with sqlite3.connect(tmp_path / STORE) as store:
        key = hashlib.sha256(b"a mat").hexdigest()
        full = f"CREATE TRIGGER full BEFORE INSERT ON vectors WHEN NEW.text = x'{key}'"
        store.execute(f"{full} BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    teacher = Teacher(TeacherConfig(model="any"), tmp_path)
    with pytest.raises(errors.FileError, match="disk is full"):
        teacher.vectors(["a river", "a mat", "a hill"])
    with sqlite3.connect(tmp_path / STORE) as store:
        assert store.execute("SELECT COUNT(*) FROM vectors").fetchone() == (2,)  # the town, and whose they are
    assert len(teacher.vectors(["a river"])) == 1


def test_a_run_takes_a_teachers_vectors_that_were_there_before_it(tmp_path, monkeypatch):
    encoder = Encoder()
    monkeypatch.setattr("echoembed.training.teacher._load", lambda _name: encoder)
    config = runs.distilling(tmp_path, teacher=TeacherConfig(model="any"))
    texts = rows.read_all(config)["groups"]["text"][:]
    Teacher(config.teacher, tmp_path / "run").vectors(texts)
    count = len(encoder.asked)
    run.train(config)
    assert count == len(texts)
    assert len(encoder.asked) == count


def test_another_teachers_vectors_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("echoembed.training.teacher._load", lambda _name: Encoder())
    Teacher(TeacherConfig(model="any"), tmp_path).vectors(["a"])
    monkeypatch.setattr("echoembed.training.teacher._load", lambda _name: Encoder(2.0))
    with pytest.raises(errors.TrainingError, match="the teacher is another"):
        Teacher(TeacherConfig(model="any"), tmp_path)


def test_the_same_weights_under_another_recipe_are_another_teacher(tmp_path):
    """Else the store of a resumed run would mix the vectors of both."""
    for recipe in ("echo", "classical"):
        echoembed.save(echoembed.load(tiny_models.folder("llama"), recipe=recipe), tmp_path / recipe)
    Teacher(TeacherConfig(model=str(tmp_path / "echo")), tmp_path).vectors(["a"])
    with pytest.raises(errors.TrainingError, match="the teacher is another"):
        Teacher(TeacherConfig(model=str(tmp_path / "classical")), tmp_path)


def test_an_adapter_of_the_package_teaches_by_its_name():
    found = Teacher(TeacherConfig(model="tiny-echo")).vectors(["a boat", "the river"])
    expected = torch.from_numpy(echoembed.load(adapter="tiny-echo").encode(["a boat", "the river"]))
    torch.testing.assert_close(found, expected)


def test_several_teachers_cosines_are_averaged_and_each_ones_vectors_are_kept(tmp_path, monkeypatch):
    class Turned(Encoder):
        """Another teacher: other cosines, another width and length."""

        def encode(self, texts, **_):
            vectors = super().encode(texts)
            return 3 * np.concatenate([vectors[:, :1], vectors[:, 1:] ** 2], axis=1)[:, :-1]

    encoders = {"one": Encoder(), "other": Turned(2.0)}
    monkeypatch.setattr("echoembed.training.teacher._load", encoders.__getitem__)
    texts = ["a river", "the town", "a mat", "a hill"]

    def cosines(vectors):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit @ unit.T

    mean = np.mean([cosines(encoder.encode(texts)) for encoder in encoders.values()], axis=0)
    config = TeacherConfig(model=("one", "other"))
    teacher = Teacher(config, tmp_path)
    assert np.allclose(cosines(teacher.vectors(texts).numpy()), mean, atol=1e-6)
    assert teacher.computed == 2 * len(texts)
    again = Teacher(config, tmp_path)
    assert np.allclose(cosines(again.vectors(texts).numpy()), mean, atol=1e-6)
    assert again.computed == 0
    with pytest.raises(errors.TrainingError, match="the teacher is another"):
        Teacher(TeacherConfig(model=("other", "one")), tmp_path)


def test_a_run_with_two_teachers_resumes_where_its_folders_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("echoembed.training.teacher._load", lambda _name: Encoder())
    config = runs.distilling(tmp_path, teacher=TeacherConfig(model=("/here/one", "package")))
    run.train(config)
    moved = replace(config, teacher=TeacherConfig(model=("/there/one", "package")))
    run.train(moved, resume=True)
    assert "/here" not in (Path(config.output) / "model" / "README.md").read_text()
    for other in (("/there/one", "another"), ("/there/one",), "/there/one"):
        with pytest.raises(errors.TrainingError, match=r"teacher\.model was"):
            run.train(replace(config, teacher=TeacherConfig(model=other)), resume=True)


def test_a_sentence_transformer_in_a_folder_teaches(tmp_path):
    """The library's own encode is the oracle; a folder that is not there is refused."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    part = Transformer(str(tiny_models.folder("llama")))
    model = SentenceTransformer(modules=[part, Pooling(part.get_embedding_dimension())], device="cpu")
    model.save_pretrained(str(tmp_path / "plain"))
    texts = ["the cat sat", "a river"]
    got = Teacher(TeacherConfig(model=str(tmp_path / "plain"))).vectors(texts)
    assert np.allclose(got.numpy(), model.encode(texts), atol=1e-5)
    with pytest.raises(errors.TrainingError, match="cannot be used"):
        Teacher(TeacherConfig(model=str(tmp_path / "nothing")))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("numpy", "installed package of that name carries no SentenceTransformer"),
        ("./nowhere", "does not exist"),
        ("no-such-owner/no-such-model", "(hub|not in the cache)"),  # by whether the process began offline
        ("x" * 300, "not a model's name"),
        ("a language model", r"has no modules\.json"),
    ],
)
def test_what_is_no_sentence_transformer_is_refused_at_once(name, said, monkeypatch):
    """A plain language model too: the library would pool it by a rule that nobody trained."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = str(tiny_models.folder("llama")) if name == "a language model" else name
    with pytest.raises(errors.TrainingError, match=rf"teacher .* cannot be used: .*{said}"):
        Teacher(TeacherConfig(model=place))


@pytest.mark.parametrize("damage", ["no database", "no folder"])
def test_a_store_that_cannot_be_used_is_an_error_of_ours(tmp_path, monkeypatch, damage):
    monkeypatch.setattr("echoembed.training.teacher._load", lambda _name: Encoder())
    (tmp_path / STORE).write_text("not a database, but longer than a header of one" * 40)
    folder = tmp_path if damage == "no database" else tmp_path / STORE
    with pytest.raises(errors.FileError, match=r"teacher's vectors in .* cannot be read or written"):
        Teacher(TeacherConfig(model="any"), folder).vectors(["a"])


@pytest.mark.parametrize(("fill", "said"), [(float("inf"), "is not finite"), (0.0, "is 0")])
def test_a_teachers_vector_without_a_cosine_is_refused(tmp_path, monkeypatch, fill, said):
    encoder = Encoder()
    encoder.encode = lambda texts, **_: np.array([[1.0, 2.0], [fill, fill]], np.float32)[: len(texts)]
    monkeypatch.setattr("echoembed.training.teacher._load", lambda _name: encoder)
    with pytest.raises(errors.TrainingError, match=f"its vector of 'a mat' {said}"):
        Teacher(TeacherConfig(model="any"), tmp_path).vectors(["a river", "a mat"])


def test_more_texts_than_a_query_takes_are_looked_up(tmp_path, monkeypatch):
    encoder = Encoder()
    monkeypatch.setattr("echoembed.training.teacher._load", lambda _name: encoder)
    texts = [f"boat {number}" for number in range(1300)]
    found = [Teacher(TeacherConfig(model="any"), tmp_path).vectors(texts) for _ in range(2)]
    assert torch.equal(*found)
    assert encoder.asked == texts


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_the_length_of_a_teachers_vectors_does_not_matter(tmp_path, scale):
    """Squares of such numbers are 0 or infinite, in float32 or even in float64."""
    texts = ["a", "a b", "c d e", "f"]
    losses = []
    for factor in (1.0, scale):
        pairs = zip(texts, runs.vectors_of(texts), strict=True)
        lines = [{"text": text, "vector": [factor * number for number in vector]} for text, vector in pairs]
        path = tmp_path / f"{factor}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        taught = Teacher(TeacherConfig(vectors=str(path))).vectors(texts)
        losses.append(
            float(cosine_divergence(runs.drawn(4, 5, 1), taught, student_temperature=0.1, teacher_temperature=0.1))
        )
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_text_with_two_vectors_is_refused(tmp_path):
    path = tmp_path / "v.jsonl"
    same = '{"text": "a", "vector": [1.0, 2.0]}\n'
    path.write_text(same + same)
    assert Teacher(TeacherConfig(vectors=str(path))).vectors(["a"]).tolist() == [[1.0, 2.0]]
    path.write_text(same + '\n{"text": "a", "vector": [2.0, 2.0]}\n')
    with pytest.raises(errors.TrainingError, match=r"line 3 of .*: its text has another vector in a row before"):
        Teacher(TeacherConfig(vectors=str(path)))


def test_a_text_without_a_vector_is_named_before_training_starts(tmp_path):
    config = runs.distilling(tmp_path)
    lines = (tmp_path / "vectors.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "vectors.jsonl").write_text("".join(lines[:-1]))
    for start in (run.train, plan.make):
        with pytest.raises(errors.TrainingError, match=r"no vector of 'boats of the river 8'"):
            start(config)
    assert not (tmp_path / "run").exists()


def test_an_echo_model_teaches_under_its_recipe(tmp_path):
    model = echoembed.load(tiny_models.folder("llama"), recipe="echo-last")
    folder = echoembed.save(model, tmp_path / "teacher")
    texts = ["the cat sat", "a river"]
    got = Teacher(TeacherConfig(model=str(folder))).vectors(texts)
    assert np.allclose(got.numpy(), model.encode(texts), atol=1e-5)


def test_too_small_a_batch_is_refused(tmp_path):
    """Of one other text, the softmax is always 1: there would be no loss and no gradient."""
    with pytest.raises(errors.TrainingError, match=r"batch_size = 2\. Allowed: at least 3"):
        runs.distilling(tmp_path, optimiser=OptimiserConfig(steps=6, batch_size=2, warmup_steps=1))


def test_rows_with_too_few_neighbours_say_so(tmp_path):
    config = runs.distilling(tmp_path)
    path = tmp_path / "data/lines.txt"
    path.write_text("a river\na town\n")
    with pytest.raises(errors.TrainingError, match=r"No row of .*lines.txt' has 2 different texts"):
        run.train(replace(config, data=(replace(config.data[0], path=str(path)),)))


@pytest.mark.parametrize(
    "line",
    [
        {"text": "a"},
        {"vector": [1.0]},
        {"text": "a", "vector": [float("nan")]},
        {"text": "a", "vector": []},
        {"text": "a", "vector": [0.0, 0.0]},
        {"text": "a", "vector": ["1", "2"]},
        {"text": "a", "vector": [True, False]},
        {"text": "a", "vector": [[1.0], [2.0]]},
        {"text": "a", "vector": [[1.0], 2.0]},
        {"text": "a", "vector": "1 2"},
        {"text": ["a"], "vector": [1.0]},
    ],
)
def test_a_file_without_vectors_is_refused(tmp_path, line):
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(errors.TrainingError, match="cannot be used"):
        Teacher(TeacherConfig(vectors=str(path)))


def test_vectors_of_two_widths_are_refused_and_a_missing_text_is_named(tmp_path):
    path = tmp_path / "v.jsonl"
    path.write_text('{"text": "a", "vector": [1.0, 2.0]}\n{"text": "b", "vector": [1.0]}\n')
    with pytest.raises(errors.TrainingError, match="1 numbers"):
        Teacher(TeacherConfig(vectors=str(path)))
    path.write_text('{"text": "a", "vector": [1.0, 2.0]}\n')
    with pytest.raises(errors.TrainingError, match="a mat"):
        Teacher(TeacherConfig(vectors=str(path))).vectors(["a", "a mat"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"teacher": TeacherConfig()}, "teacher"),
        ({"teacher": TeacherConfig(model="a", vectors="b")}, "teacher"),
        ({"objective": "simcse"}, "teacher"),
        ({"optimiser": OptimiserConfig(steps=6, batch_size=5, warmup_steps=1)}, "neighbours"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, changes, field):
    with pytest.raises(errors.TrainingError, match=field):
        runs.distilling(tmp_path, **changes)


def test_pairs_and_neighbours_are_for_distillation_alone(tmp_path):
    config = runs.small(tmp_path)
    for change in ({"pairs": True}, {"neighbours": 2}):
        with pytest.raises(errors.TrainingError, match=next(iter(change))):
            replace(config, data=(replace(config.data[0], **change),))


def test_groups_are_whole_and_hold_no_text_twice(tmp_path):
    path = tmp_path / "g.jsonl"
    lines = [["a", "b", "c", "d", "e"], ["a", "f"], ["g", "g"], ["h", "i"]]
    path.write_text("".join(json.dumps({"texts": texts}) + "\n" for texts in lines))
    found = rows.read(DataConfig(path=str(path), neighbours=2), "distil")
    assert list(found["text"]) == ["a", "b", "c", "d", "h", "i"]


def test_texts_that_no_group_holds_are_counted_and_named(tmp_path):
    config = runs.distilling(tmp_path)
    path = tmp_path / "g.jsonl"
    groups = [[f"{word} {number}" for word in ("a boat", "the river", "rain")] for number in range(20)]
    path.write_text("".join(json.dumps({"texts": texts}) + "\n" for texts in groups))
    texts = [text for group in groups for text in group]
    lines = [{"text": text, "vector": list(vector)} for text, vector in zip(texts, runs.vectors_of(texts), strict=True)]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    part = replace(config.data[0], path=str(path), neighbours=2)
    teacher = TeacherConfig(vectors=str(tmp_path / "v.jsonl"))
    config = replace(config, data=(part,), output=str(tmp_path / "run"), teacher=teacher)
    said = "20 of 60 texts of 'groups' are not used"
    assert any(said in warning for warning in plan.make(config).warnings)
    with pytest.warns(run.TrainingWarning, match=said):
        run.train(config)


def test_a_configuration_comes_back_from_its_record(tmp_path):
    from echoembed.training.config import from_dict

    config = runs.distilling(tmp_path, layer=2)
    assert isinstance(config, TrainConfig)
    assert from_dict(json.loads(json.dumps(config.as_dict()))) == config
