"""What the model is asked, task by task."""

from types import SimpleNamespace

import pytest

import echoembed
from echoembed.evaluation.benchmarks import MINI, MTEB, benchmark_tasks
from echoembed.evaluation.encoder import PLACEHOLDER, MtebEncoder
from echoembed.evaluation.instructions import instruction_for
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate
from echoembed.prompts.reader import Reader


def instructed(instruction="Say what it is about"):
    recipe = echoembed.Recipe(
        name="instructed",
        query_template="{bos}Instruct: {instruction} Query: {text} Query again: {text:pool}",
        document_template="{bos}Document: {text} Document again: {text:pool}",
        instruction=instruction,
        budget=24,
        layer=2,
    )
    return echoembed.load("tiny", recipe=recipe)


def asked(monkeypatch, model, tasks):
    """What the model is asked while tasks run: (task, prompt) → texts."""
    calls = {}
    render = Reader.render

    def recorded(reader, texts, *, task=None, instruction=None):
        if texts != ["TEXT"]:  # the sample that a score's details show
            calls.setdefault((task, instruction or None), []).extend(texts)
        return render(reader, texts, task=task, instruction=instruction)

    monkeypatch.setattr(Reader, "render", recorded)
    evaluate(model, tasks)
    return calls


@pytest.mark.parametrize("kind", ["sts", "pair", "classification", "clustering"])
def test_symmetric_tasks_use_the_query_template_on_both_sides(kind, model, made, monkeypatch):
    assert set(asked(monkeypatch, model, local_tasks(made, [kind]))) == {("query", None)}


@pytest.mark.parametrize("kind", ["retrieval", "reranking"])
def test_queries_and_documents_get_their_templates(kind, model, made, monkeypatch):
    calls = asked(monkeypatch, model, local_tasks(made, [kind]))
    assert set(calls) == {("query", None), ("document", None)}
    queries = {row["query"] for row in _rankings(made)}
    assert set(calls["query", None]) == queries
    if kind == "retrieval":
        assert all(text.startswith(("animals ", "money ", "weather ")) for text in calls["document", None])


def _rankings(made):
    from echoembed.evaluation import rows

    return rows.read_rows(made / "reranking/made_rr/test.jsonl", {"query": rows.TEXT})


def test_instruction_goes_where_the_template_has_a_slot(made, monkeypatch):
    calls = asked(monkeypatch, instructed(), local_tasks(made, ["retrieval"]))
    assert set(calls) == {("query", instruction_for("made_ir", "Retrieval")), ("document", None)}


def test_instruction_ends_as_the_recipes_own():
    encoder = MtebEncoder(instructed("Retrieve text:"))
    assert encoder.instruction("STS12", "STS", "query") == "Retrieve semantically similar text:"
    assert encoder.instruction("STS12", "STS", "document") == ""


def test_instructions_are_the_papers_by_mtebs_names():
    assert instruction_for("STS12", "STS") == instruction_for("sts12", "STS") == "Retrieve semantically similar text"
    assert instruction_for("sick_r", "STS") == instruction_for("SICK-R", "STS")
    assert instruction_for("banking77", "Classification") == instruction_for("Banking77Classification", "")
    assert instruction_for("SciFact", "Retrieval") == (
        "Given a scientific claim, retrieve documents that support or refute the claim"
    )
    assert instruction_for("never heard of", "STS", "mteb's") == "mteb's"
    assert instruction_for("never heard of", "Clustering") == "Identify the topic or theme of the given texts"


def test_every_task_of_mteb_has_an_instruction_of_the_paper():
    for task in benchmark_tasks(MTEB):
        if task.name == "CQADupstackRetrieval":
            names = [part.metadata.name for part in task.load().tasks]
            assert len(names) == 12
        else:
            names = [task.name]
        for name in names:
            assert instruction_for(name, "none"), name
    assert {task.name for task in benchmark_tasks(MINI)} < {task.name for task in benchmark_tasks(MTEB)}


def test_blank_and_broken_texts_are_embedded_and_counted(model, made, monkeypatch, tmp_path):
    path = tmp_path / "sts/holes/test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(
        '{"sentence1": "", "sentence2": "A cat.", "score": 1}\n'
        '{"sentence1": " \\u0000\\n", "sentence2": "A c\\u0007at.", "score": 2}\n'
        '{"sentence1": "A dog.", "sentence2": "Half of a pair: \\ud83d", "score": 3}\n'
    )
    calls = asked(monkeypatch, model, local_tasks(tmp_path))
    assert sorted(calls["query", None]) == sorted([PLACEHOLDER, "A cat.", "A dog.", "Half of a pair: "])
    monkeypatch.undo()
    (score,) = evaluate(model, local_tasks(tmp_path))
    assert (score.details["blank"], score.details["cleaned"]) == (2, 3)


def test_text_without_tokens_is_embedded_as_the_placeholder(model, made, monkeypatch):
    from echoembed import errors

    render = Reader.render

    def picky(reader, texts, **settings):
        if "A cat." in texts:
            raise errors.text_without_tokens("A cat.")
        return render(reader, texts, **settings)

    encoder = MtebEncoder(model)
    monkeypatch.setattr(Reader, "render", picky)
    task = SimpleNamespace(name="animals", type="STS")
    vectors = encoder.encode([{"text": ["A cat.", "A dog.", PLACEHOLDER]}], task_metadata=task)
    assert (vectors[0] == vectors[2]).all()
    assert (vectors[1] != vectors[2]).any()
    assert encoder.counts["blank"] == 1
