"""A search finds what is best by a plain computation, goes on where it was, and saves what can be loaded."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

import echoembed
import tiny_models
from echoembed import errors
from echoembed.cli import app
from echoembed.evaluation.layers import LayerStore
from echoembed.model.calibrate import calibrated_under
from echoembed.tune import space
from echoembed.tune.cost import Costs
from echoembed.tune.evidence import LabelledPairs
from echoembed.tune.scores import Scorer
from echoembed.tune.search import tune

DRAW = np.random.default_rng(11)
WHO, DID, WHERE = (
    ["a cat", "the old man", "my sister", "a train"],
    ["slept", "sang a song", "was late"],
    ["Rome", "rain"],
)
TEXTS = [f"{who} {did} in {where}, number {n}" for who in WHO for did in DID for where in WHERE for n in range(8)]
CALIBRATED = [text for text in TEXTS if text.endswith(("0", "1", "2", "3"))]
JUDGED = [text for text in TEXTS if not text.endswith(("0", "1", "2", "3"))]


def alike(left, right):
    return float(len(set(left.split()) & set(right.split())))


def pairs(count=80):
    drawn = [
        (JUDGED[left], JUDGED[right]) for left, right in DRAW.integers(0, len(JUDGED), (count, 2)) if left != right
    ]
    return [(left, right, alike(left, right)) for left, right in drawn]


def load(recipe):
    return echoembed.load("tiny", recipe=recipe, device="cpu", overflow="ignore")


@pytest.fixture(scope="module")
def given():
    return pairs()


@pytest.fixture(scope="module")
def found(given, tmp_path_factory):
    store = LayerStore(tmp_path_factory.mktemp("store"))
    result = tune(load, CALIBRATED, pairs=given, most_cost=5, store=store, prompts=["classical", "echo"])
    return result, store


def test_the_winners_score_is_that_of_its_model(found, given):
    result, _ = found
    model = echoembed.load("tiny", recipe=result.winner.candidate.recipe, device="cpu")
    vectors = dict(zip(JUDGED, model.encode(JUDGED), strict=True))
    assert result.winner.candidate.recipe.name == "tuned"
    cosines = [float(vectors[left] @ vectors[right]) for left, right, _ in given]
    whole = 100 * spearmanr(cosines, [gold for *_, gold in given]).statistic
    # The two halves' scores, of which one was chosen by, stand on both sides of the whole's, or near it.
    halves = sorted([result.winner.chosen, result.winner.judged])
    assert halves[0] - 10 < whole < halves[1] + 10


def test_the_frontier_rises_with_the_cost_and_holds_the_winner(found):
    result, _ = found
    costs, chosen = ([getattr(one, name) for one in result.frontier] for name in ("cost", "chosen"))
    assert costs == sorted(costs)
    assert chosen == sorted(chosen)
    assert result.winner.chosen == max(one.chosen for one in result.frontier if one.cost <= 5)
    assert set(result.references) == {"classical", "echo", "bag of words"}
    assert result.references["bag of words"].candidate.layer == 1


def test_a_second_search_reads_nothing_again_and_finds_the_same(found, given):
    result, store = found
    again = LayerStore(store.folder)
    second = tune(load, CALIBRATED, pairs=given, most_cost=5, store=again, prompts=["classical", "echo"])
    assert again.computed == 0
    assert (second.winner.judged, second.winner.chosen) == (result.winner.judged, result.winner.chosen)


def test_two_side_by_side_have_the_score_of_their_model(found, given):
    _, store = found
    model = load(echoembed.recipes["classical"])
    echo, classical = space.prompts(["echo", "classical"])
    layers = model[0].layers
    candidates = [
        space.Candidate(prompt=classical, layer=1, layers=layers, pooling="mean", calibration="z-score"),
        space.Candidate(prompt=echo, layer=layers, layers=layers, pooling="last", calibration="mean"),
    ]
    scorer = Scorer(model, store, Costs((), 1.0, 1.0), LabelledPairs.of(given), CALIBRATED)
    (both,) = scorer.side_by_side(candidates, np.arange(len(given)))
    recipe = both.candidate.recipe
    made = calibrated_under(load(recipe.without_calibrations()), recipe, CALIBRATED)
    vectors = dict(zip(JUDGED, made.encode(JUDGED), strict=True))
    cosines = [float(vectors[left] @ vectors[right]) for left, right, _ in given]
    assert abs(both.score - 100 * spearmanr(cosines, [gold for *_, gold in given]).statistic) < 0.5
    alone = [scorer.side_by_side([one, replace(candidates[0], layer=0)], np.arange(len(given))) for one in candidates]
    assert all(abs(one[0].score - both.score) > 0.5 for one in alone)


def test_without_labels_the_winner_is_of_the_space_that_was_compared_with_true_scores(tmp_path):
    texts = [f"{text} and then went home again" for text in TEXTS]
    said = []
    result = tune(load, texts, most_cost=5, store=LayerStore(tmp_path), say=said.append)
    read = {line.partition(":")[0] for line in said if ":" in line}
    assert read == set(space.UNLABELLED)
    parts = [part for scored in [result.winner, *result.frontier] for part in scored.candidate.parts]
    assert {part.prompt.name for part in parts} <= set(space.UNLABELLED)
    assert not any(part.pooling == "weighted-mean" for part in parts)


def test_a_cost_that_nothing_is_within_is_refused(given, tmp_path):
    with pytest.raises(errors.DataError, match="raise the cost"):
        tune(load, CALIBRATED, pairs=given, most_cost=1e-9, store=LayerStore(tmp_path), prompts=["echo"])


def rows(*changes):
    """Lines of judged pairs; each change replaces the fields of a row, by its number from 0."""
    made = [{"sentence1": f"left {n} is", "sentence2": f"right {n} was", "score": n % 4} for n in range(40)]
    for number, fields in changes:
        made[number] = fields
    return "".join(json.dumps(row) + "\n" for row in made)


GOOD = {"sentence1": "left", "sentence2": "right"}
BAD_PAIRS = [
    ((3, GOOD), "line 4 of pairs.jsonl has no 'score'; it has sentence1, sentence2"),
    ((3, {**GOOD, "label": 1}), "line 4 of pairs.jsonl has no 'score'"),
    ((3, {**GOOD, "sentence1": "", "score": 1}), "line 4 of pairs.jsonl has sentence1 = ''"),
    ((3, {**GOOD, "sentence2": "a\0b", "score": 1}), "line 4 of pairs.jsonl has sentence2 = "),
    ((3, {**GOOD, "score": float("nan")}), "has score = nan"),
    ((3, {**GOOD, "score": 10**400}), "It must be a finite number"),
]
BAD_OPTIONS = [
    (["--dtype", "int8"], "Got dtype = 'int8'"),
    (["--layer", "2"], "which is what a search finds"),
    (["--recipes-file", "texts.jsonl"], "--recipes-file"),
    (["-o", "x" * 300], "File name too long"),
    (["-o", "texts.jsonl/out"], "Not a directory"),
    (["-o", "texts.jsonl", "--overwrite"], "is a file"),
    (["-o", ".", "--overwrite"], "is a folder of other things"),
    (["-o", "old", "--overwrite", "--pairs", "old/pairs.jsonl"], "is the input"),
    (["--store", "out"], "is the input 'out'"),
    (["--store", "out/store"], "is the input"),
    (["--texts", "none.txt"], "there is no such file"),
    (["--texts", "two words"], "there is no such file"),
    (["--column", "body"], "no column 'body'"),
]


@pytest.fixture
def refuses(tmp_path, monkeypatch):
    """Run the verb, which must fail in one line before it loads a model, and leave all files as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(echoembed, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in CALIBRATED))
    (tmp_path / "old").mkdir()
    for name in ("modules.json", "pairs.jsonl"):
        (tmp_path / "old" / name).touch()

    def run(*arguments):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        result = CliRunner().invoke(app, ["tune", "tiny", "--texts", "texts.jsonl", "-o", "out", *arguments])
        assert result.exit_code in (1, 2), result.output
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        return result.stderr

    return run


@pytest.mark.parametrize(("change", "said"), BAD_PAIRS)
def test_a_row_that_is_no_judged_pair_is_named(refuses, tmp_path, change, said):
    (tmp_path / "pairs.jsonl").write_text(rows(change), encoding="utf-8")
    assert said in refuses("--pairs", "pairs.jsonl")


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS)
def test_what_would_fail_after_the_search_fails_before_it(refuses, options, said):
    assert said in refuses(*options)


def test_texts_are_read_as_by_other_verbs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = []

    def stop(_load, texts, **_):
        read.extend(texts)
        raise errors.DataError("enough")

    monkeypatch.setattr("echoembed.tune.search.tune", stop)
    (tmp_path / "notes.data").write_text("body;n\n" + "".join(f"{text};1\n" for text in CALIBRATED) + " ;2\n")
    options = ["--format", "csv", "--delimiter", ";", "--column", "body", "--on-bad-text", "skip"]
    result = CliRunner().invoke(app, ["tune", "tiny", "--texts", "notes.data", "-o", "out", *options])
    assert "left out 1 of" in result.stderr
    assert read == CALIBRATED


def test_prompts_that_a_short_context_has_no_room_for_are_left_out(tmp_path):
    short = tiny_models.folder("llama", max_position_embeddings=12)
    said: list[str] = []

    def load(recipe):
        return echoembed.load(short, recipe=recipe, device="cpu", overflow="ignore")

    found = tune(load, TEXTS, most_cost=9, store=LayerStore(tmp_path), say=said.append)
    assert [line.split(":")[0] for line in said if line.endswith("on a sample")] == ["classical"]
    assert found.winner.candidate.prompt.name == "classical"
    short = tiny_models.folder("llama", max_position_embeddings=5)
    with pytest.raises(errors.DataError, match="none of the prompts of the table, as its context has 5 tokens"):
        tune(load, TEXTS, most_cost=9, store=LayerStore(tmp_path))


def test_texts_are_counted_as_the_user_counts_them(tmp_path):
    for texts, said in (
        (TEXTS[:30], "Got 30 different texts. A search needs at least 40"),
        ([*TEXTS[:19], *["short"] * 50], "Got 19 different texts of 6 words or more"),
        (TEXTS[:1] * 100, "Got 1 different texts of 6 words or more"),
    ):
        with pytest.raises(errors.DataError, match=said):
            tune(load, texts, store=LayerStore(tmp_path))


def test_prompts_are_tried_on_a_sample_of_all_labels(tmp_path):
    """A file that is sorted by its labels has one label in its first third."""
    texts = [f"note {n} on {what}" for n in range(30) for what in ("rain", "bread")]
    labelled = [
        (left, right, float(n >= 20)) for n, (left, right) in enumerate(zip(texts[::2], texts[1::2], strict=True))
    ]
    said: list[str] = []
    tune(
        load,
        CALIBRATED,
        pairs=labelled,
        most_cost=9,
        store=LayerStore(tmp_path),
        prompts=["classical"],
        say=said.append,
    )
    assert "classical: 0.0 on a sample" not in said


def test_the_verb_saves_a_model_that_every_verb_takes(tmp_path, monkeypatch):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS), encoding="utf-8")
    arguments = ["tune", "tiny", "--texts", str(texts), "-o", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(app, [*arguments, "--cost", "9", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    model = echoembed.load(tmp_path / "out", device="cpu")
    assert echoembed.describe(model)["recipe"] == "tuned"
    assert record["winner"]["calibration"] == model[0].recipe.calibration
    vectors = model.encode(TEXTS[:3])
    assert np.isfinite(vectors).all()
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"tune.json", "frontier.png", "frontier.svg"}
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "exists" in again.stderr
