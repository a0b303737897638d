"""A finished result is used again only if all that decided it is the same; what did not exist is not claimed."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import tiny_models
from echoembed.evaluation import peers
from echoembed.experiments import cost, figure4, figure6, figure13, layers, scoretable
from echoembed.experiments.experiment import Bench, Plan, Setting
from echoembed.recipe import recipes


@pytest.fixture
def setting(data, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    return Setting(out=tmp_path / "out", data=data, models=("tiny",))


def test_the_texts_of_a_calibration_are_part_of_the_key_of_layers(setting):
    planned = []
    for texts in (["a", "b"], ["a", "c"], ["a\nb", ""]):
        bench = Bench(setting)
        bench.__dict__["calibration_texts"] = texts
        planned.append(layers.plan(bench).settings)
    assert len({str(settings) for settings in planned}) == 3


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 7}, {"engine": "padded"}, {"device": "cuda"}, {"deterministic": True}, {"seed": 7}],
    ids=str,
)
def test_all_that_decides_how_long_a_text_takes_is_part_of_the_key_of_cost(setting, change, monkeypatch):
    monkeypatch.setattr(cost, "TEXTS", 12)
    monkeypatch.setattr(cost.selection, "QUICK", {"sts": cost.selection.Quick(12)})
    monkeypatch.setattr(cost, "transformer_of", lambda model: model)

    def settings(setting):
        bench = Bench(setting)
        choice = SimpleNamespace(name=setting.engine or "packed")
        model = SimpleNamespace(layers=4, device=setting.device or "cpu", choice=lambda: choice)
        bench.models.get = lambda *_: model
        return cost.plan(bench).settings

    assert settings(setting) == settings(setting) != settings(replace(setting, **change))
    assert {"threads", "machine"} <= settings(setting).keys()


def test_the_note_on_time_counts_the_texts_that_were_timed():
    row = {"recipe": "echo", "task": "one", "score": 0.5, "seconds": 0.1, "timed": 5, "model": "tiny"}
    assert "for one of 5 STS sentences" in cost.summary([row]).notes[-1]


def test_other_weights_of_a_splitter_of_the_same_name_are_part_of_the_key_of_figure_6(setting, tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "mine")
    bench = Bench(replace(setting, splitter=str(folder)))
    before = figure6.plan(bench).settings
    tiny_models.copy(tiny_models.folder("qwen2"), folder)
    after = figure6.plan(bench).settings
    assert before != after
    assert before["splitter"] == after["splitter"] == "mine"  # on the page, without the path


def test_the_dtype_of_checkpoints_is_part_of_the_key_of_figure_13(setting, tmp_path):
    tiny_models.copy(tiny_models.folder("llama"), tmp_path / "run" / "step-1")
    changed = replace(setting, checkpoints=tmp_path / "run")
    keys = [figure13.plan(Bench(replace(changed, dtype=dtype))).settings for dtype in ("float32", "bfloat16")]
    assert keys[0] != keys[1]


def test_a_folder_of_figure_5_may_have_an_at_sign_in_its_name(setting, tmp_path):
    class Stub:
        def __init__(self):
            self.setting = replace(setting, checkpoints=tmp_path)

        def scores(self, rows, tasks, **columns):
            return [columns]

    rows = figure4.run(Stub(), Plan(recipes=figure4.budgeted(recipes["echo"], setting, "echo@v2")))
    assert {row["method"] for row in rows} == {"echo@v2"}
    assert {row["model"] for row in rows} == {str(tmp_path / "echo@v2")}


def test_what_is_needed_is_the_data_or_the_kind_of_set_that_the_data_lack(setting, tmp_path):
    assert scoretable.sts_plan(Bench(replace(setting, data=None)), []).needs == scoretable.NO_DATA
    (tmp_path / "data/pair/couples").mkdir(parents=True)
    text = (setting.data / "pair/couples/test.jsonl").read_text()
    (tmp_path / "data/pair/couples/test.jsonl").write_text(text)
    bench = Bench(replace(setting, data=tmp_path / "data"))
    assert "STS set in --data" in scoretable.sts_plan(bench, [], few=True).needs
    assert "retrieval or a classification set in --data" in figure4.plan(bench).needs
