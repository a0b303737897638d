"""Tables of fine-tuned models: a row of the paper's system is of the paper's weights, and says which and on what."""

from dataclasses import replace

import pytest

import echoembed
from echoembed.evaluation import peers
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate
from echoembed.evaluation.store import Score, Store
from echoembed.evaluation.task import KINDS
from echoembed.experiments import reproduce
from echoembed.experiments.experiment import Setting
from echoembed.experiments.results import read_rows
from echoembed.recipe import recipes

NAME = "echo-finetuned-last"
PUBLISHED = recipes[NAME].checkpoint


@pytest.fixture
def tables(tmp_path):
    """Keep scores, and make tables of them."""

    def keep(model, kinds=("STS",), *, recipe=NAME, print_="f", folder="", score=0.5):
        names = {"model": model, "recipe": recipe, "fingerprint": print_ * 16, "metric": "any", "score": score}
        for kind in kinds:
            task = f"{kind} 1"
            identity = {"fingerprint": print_ * 16, "task": task, "max_texts": 100}
            Store(tmp_path / "kept" / folder).save(Score(**names, task=task, kind=kind, identity=identity))

    def make(*names):
        return reproduce.reproduce(names, Setting(out=tmp_path / "out", scores=tmp_path / "kept"))

    keep.make = make
    return keep


def ours(result):
    return {row[0]: row[1:] for row in result.summary.rows if row[1].startswith("ours")}


def test_scores_of_the_published_checkpoint_are_the_papers_system_and_any_other_model_is_a_row_of_its_own(tables):
    tables(PUBLISHED, KINDS, print_="a")
    tables("tiny", print_="b")
    tables("/home/me/runs/mine", recipe="classical-finetuned", print_="c")
    five, fourteen = tables.make("table5", "table14")
    assert set(ours(five)) == {"Echo (ours)", f"{NAME} bbbbbbbb, tiny", "classical-finetuned, mine"}
    assert ours(five)["Echo (ours)"] == [f"ours, {PUBLISHED}", *["50.00"] * 8]
    assert ours(five)["classical-finetuned, mine"][0] == "ours"
    assert "Echo + last token pooling" in ours(fourteen)
    sets = ", ".join(f"{kind} 1" for kind in KINDS)
    assert f"Ours under {NAME}: {PUBLISHED}. Sets: at most 100 texts of each of {sets}." in five.summary.notes


def test_another_model_alone_under_a_papers_recipe_is_not_the_papers_system(tables):
    tables("tiny")
    for result in tables.make("table5", "table14"):
        assert set(ours(result)) == {f"{NAME}, tiny"}


def test_an_average_over_fewer_categories_than_the_papers_is_not_shown(tables):
    tables(PUBLISHED, KINDS[:-1], print_="a")
    tables("most", KINDS[:-1], print_="b")
    tables("few", ("STS",), print_="c")
    (result,) = tables.make("table5")
    averages = {name: row[-1] for name, row in ours(result).items()}
    assert averages == {"Echo (ours)": "-", f"{NAME} bbbbbbbb, most": "50.00", f"{NAME} cccccccc, few": "-"}


def test_table_18_has_the_published_checkpoints_scores_by_data_set(tmp_path):
    names = {"model": PUBLISHED, "recipe": NAME, "fingerprint": "f" * 16, "metric": "accuracy"}
    task = {"task": "Banking77Classification", "kind": "Classification", "score": 0.5}
    identity = {"fingerprint": "f" * 16, "task": "Banking77Classification"}
    Store(tmp_path / "kept").save(Score(**names, **task, identity=identity))
    (result,) = reproduce.reproduce(["table18"], Setting(out=tmp_path / "out", scores=tmp_path / "kept"))
    assert ["Banking77Classification", "ours", "50.00", "-", "-", "-", "-"] in result.summary.rows
    assert any(PUBLISHED in note for note in result.summary.notes)


def test_models_in_one_folder_are_not_averaged_and_a_folder_hides_no_recipe(tables):
    tables("m", recipe="echo", print_="a", folder="mine", score=0.1)
    tables("m", recipe="echo", print_="b", folder="mine", score=0.2)
    tables("m", recipe="classical", print_="c", folder="mine", score=0.3)
    tables("m", recipe="echo", print_="d", folder="echo", score=0.4)
    tables("m", recipe="echo", print_="e", score=0.5)
    (result,) = tables.make("table5")
    assert len(ours(result)) == 5


def test_a_bag_of_words_and_encoders_stand_beside_our_models_on_the_same_samples(data, tmp_path, monkeypatch):
    """As evaluate() scores them on these tasks; a set that is another one in the given data is left out."""
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    model = echoembed.load("tiny", recipe="classical", device="cpu")
    tasks = local_tasks(data, ["sts/one", "reranking/ranks"], max_texts=20, seed=7)
    scores = evaluate(model, tasks, store=Store(tmp_path / "kept" / "mine"))
    (two,) = evaluate(model, local_tasks(data, ["sts/two"]))
    Store(tmp_path / "kept" / "mine").save(replace(two, identity={**two.identity, "data": "of other pairs"}))
    setting = Setting(out=tmp_path / "out", scores=tmp_path / "kept", data=data, models=("tiny",))
    five, eighteen = reproduce.reproduce(["table5", "table18"], setting)
    rows = {row["system"]: row for row in read_rows(tmp_path / "out" / "table5.parquet")[0] if row["column"] == "sts"}
    wanted = evaluate(echoembed.load("tiny", recipe="bag-of-words", device="cpu"), tasks)
    assert rows["bag-of-words, tiny"]["ours"] == pytest.approx(100 * wanted[0].score)
    assert rows["mine, tiny"]["ours"] == pytest.approx(50 * (scores[0].score + two.score))
    assert any("Sets: at most 20 texts of each of one, ranks; all of two." in note for note in five.summary.notes)
    assert not any("bag-of-words" in row[0] for row in eighteen.summary.rows)
