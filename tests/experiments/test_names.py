"""A row is one system's: no two systems share a name on a page, and a name never stands for other weights."""

from dataclasses import replace

import pytest

import echoembed
import tiny_models
from echoembed.evaluation import peers
from echoembed.evaluation.names import model_name, told_apart
from echoembed.evaluation.peers import System
from echoembed.evaluation.store import Score
from echoembed.experiments import others, reproduce, scoretable, table3
from echoembed.experiments.experiment import Bench, Plan, Setting
from echoembed.experiments.results import distinct
from echoembed.sources.resolve import resolve


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Models with other weights or another recipe, which keep their base's name, as training leaves them."""
    root = tmp_path_factory.mktemp("saved")
    for place, recipe, seed in (("a", "echo", 0), ("b", "echo", 1), ("c", "classical", 0)):
        base = tiny_models.copy(tiny_models.folder("llama", seed=seed), root / "base")
        echoembed.save(echoembed.load(base, recipe=recipe), root / place / "echo" / "model")
    return root


@pytest.fixture
def bench_of(data, tmp_path, monkeypatch, saved):
    """Make benches that score without computing: the names alone are of interest."""

    def evaluate(model, tasks, **_):
        system = isinstance(model, System)
        names = {
            "model": model.model if system else model[0].name,
            "recipe": model.name if system else model[0].recipe.name,
            "fingerprint": model.identity if system else echoembed.fingerprint(model),
        }
        (task,) = tasks
        of_task = {"task": task.name, "kind": task.kind, "metric": task.metric, "score": 0.5, "identity": {}}
        return [Score(**names, **of_task, items={"of": [names["fingerprint"]]})]

    monkeypatch.setattr("echoembed.experiments.experiment.evaluate", evaluate)
    monkeypatch.setattr(peers, "find_spec", lambda _: None)

    def make(**changes):
        return Bench(replace(Setting(out=tmp_path, data=data, models=(str(saved / "base"),)), **changes))

    return make


def test_names_are_told_apart_by_the_fewest_last_parts_that_say_more():
    assert told_apart(["run", "run", "other"], ["x/a/run", "x/b/run", "x/other"]) == [
        "run (a/run)",
        "run (b/run)",
        "other",
    ]
    assert told_apart(["echo"], ["x/echo"], {"echo"}) == ["echo (x/echo)"]
    assert told_apart(["m", "m"], ["x/m", "x/m"]) == ["m", "m"]  # the same system, twice


def test_a_checkpoint_is_not_called_as_its_base_and_a_model_alone_is_not_renamed():
    places = ("tiny", "./a/ckpt", "./b/ckpt", "./c/model.gguf")
    names = [
        model_name(name, place, places) for name, place in zip(["tiny"] * 3 + ["./c/model.gguf"], places, strict=True)
    ]
    assert names == ["tiny", "tiny (a/ckpt)", "tiny (b/ckpt)", "model"]
    assert model_name("tiny", "./a/ckpt", ["./a/ckpt"]) == "tiny"
    assert model_name("smollm2-135m", None, [None]) == "smollm2-135m"


def test_a_model_of_llm2vec_is_known_by_its_weights_and_its_recipe(bench_of, saved):
    """A merged save has its weights in a folder within, and a run elsewhere may have the same name."""
    keys = {}
    for place in "abc":
        bench = bench_of(llm2vec=(saved / place / "echo" / "model",))
        keys[place] = bench.key(table3.EXPERIMENT, table3.plan(bench))["key"]
        assert distinct(bench.llm2vec_scores(bench.tasks[:1]), "recipe") == ["llm2vec, echo"]
    assert len(set(keys.values())) == 3


def test_runs_of_llm2vec_of_the_same_name_are_rows_of_their_own(bench_of, saved):
    bench = bench_of(llm2vec=tuple(saved / place / "echo" / "model" for place in "ab"))
    rows = bench.llm2vec_scores(bench.tasks[:1])
    assert [row["recipe"] for row in rows] == ["llm2vec, echo (a/echo)", "llm2vec, echo (b/echo)"]
    assert set(bench.llm2vec_training()) == {row["recipe"] for row in rows}


def test_models_that_keep_their_bases_name_are_rows_of_their_own(bench_of, saved):
    models = (str(saved / "base"), *(str(saved / place / "echo" / "model") for place in "ab"))
    bench = bench_of(models=models)
    planned = Plan(recipes=["echo"], tasks=bench.tasks[:1], models=models)
    names = ["base", "base (a/echo/model)", "base (b/echo/model)"]
    assert [row["model"] for row in scoretable.run_scores(bench, planned)] == names
    about = bench.key(reproduce.EXPERIMENTS["table2"], replace(planned, recipes=()))
    assert [identity.rsplit(" ", 3)[0] for identity in about["models"]] == names


def test_another_encoder_in_a_folder_named_as_a_recipe_is_a_row_of_its_own(bench_of, saved):
    bench = bench_of(further=(str(saved / "b" / "echo"), str(saved / "c" / "echo")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "resolve", lambda place: resolve(f"{place}/model"))
        systems = others.installed(bench)
    own = bench.scores(["echo"], bench.tasks[:1])
    items = bench.items["base", "echo", bench.tasks[0].name]
    rows = bench.system_scores(systems, bench.tasks[:1])
    assert [row["recipe"] for row in [*own, *rows]] == ["echo", "echo (b/echo)", "echo (c/echo)"]
    assert bench.items["base", "echo", bench.tasks[0].name] is items
    assert len({system.identity for system in systems}) == 2


def test_results_of_every_item_are_kept_by_the_row_that_they_belong_to(bench_of, saved):
    """Else a model of LLM2Vec that was saved with echo's prompt would decide the interval of echo's lead."""
    bench = bench_of(llm2vec=(saved / "b" / "echo" / "model",))
    bench.scores(["echo"], bench.tasks[:1])
    items = bench.items["base", "echo", bench.tasks[0].name]
    bench.llm2vec_scores(bench.tasks[:1])
    assert bench.items["base", "echo", bench.tasks[0].name] is items
    assert len(bench.items) == 2
