"""Recipes: bad fields are refused by name, the fingerprint covers what decides, and the rows give the authors' ids."""

from __future__ import annotations

import copy
import gzip
import json
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from functools import cache, partial

import pytest

import echoembed
from echoembed.errors import RecipeError, TemplateError
from echoembed.prompts.template import Rendered, Renderer
from echoembed.recipe import Recipe, find_recipe, load_recipes, prepare, recipe_of_checkpoint, recipes
from tokenizers_for_tests import need_shared, original_ids, pieces

TWICE = "{bos}Say: {text} Again: {text:pool}"
# For each field, another value that is allowed.
OTHER = {
    "name": "thrice",
    "query_template": "{bos}Say: {text} And again: {text:pool}",
    "document_template": "{bos}{text:pool}",
    "pooling": "last",
    "attention": "bidirectional",
    "layer": 3,
    "depth": 0.5,
    "calibration": "z-score",
    "hindsight": "slot-2-8",
    "budget": 256,
    "instruction": "Retrieve",
    "markers": {"close": "]"},
    "preparation": "prompteol",
    "beside": ("classical",),
    "join": "mean",
    "checkpoint": "org/model",
    "adapters": ("org/adapter",),
    "trained": True,
    "tuned_for": "smollm2-135m",
    "source": "Section 1",
    "description": "A line.",
}
NOTES = {"name", "checkpoint", "adapters", "trained", "tuned_for", "source", "description"}


def recipe(**changed) -> Recipe:
    return Recipe(**{"name": "twice", "query_template": TWICE, "document_template": TWICE, **changed})


# Fields

BAD = [
    *(("name", value) for value in ("", "  ", None, 5)),
    *(("query_template", value) for value in (None, 5, b"{text:pool}", ["{text:pool}"])),
    *(("document_template", value) for value in (5, b"{text:pool}")),
    *(("pooling", value) for value in ("max", "Mean", "", None, ["mean"], 1)),
    *(("attention", value) for value in ("full", "", None, True)),
    *(("layer", value) for value in ("last", 1.0, None, True)),
    *(("depth", value) for value in (0, -0.5, 1.01, float("nan"), "0.5", True)),
    *(("calibration", value) for value in ("zscore", "", None, 5, "whiten", "whiten-0", "whiten-1.5", "spectrum-1")),
    *(("hindsight", value) for value in ("slot", "slot-0-2", "keys-3-2", "mid-1-2", "keys-1-2-3", "", None)),
    *(("budget", value) for value in (0, -1, 1.5, "512", True, float("inf"))),
    *(("instruction", value) for value in (None, 5)),
    *(("markers", value) for value in (None, ["close"], "close", {"close": ""}, {"close": 5}, {"a b": "x"}, {1: "x"})),
    *(("markers", {slot: "x"}) for slot in ("text", "instruction", "bos", "eos")),
    *(("preparation", value) for value in ("strip", None)),
    *(("beside", value) for value in (None, "classical", 5, [5], [{}])),
    *(("beside", value) for value in (["classical-bidirectional"], [{"pool": "mean"}])),
    *(("join", value) for value in ("sum", None, 1)),
    *(("checkpoint", value) for value in (None, 5)),
    *(("adapters", value) for value in ("org/adapter", None, 5, [5], [""])),
    *(("trained", value) for value in ("yes", 1, None)),
    *(("tuned_for", value) for value in (None, 5)),
    *(("source", value) for value in (None, 5)),
    *(("description", value) for value in (None, 5)),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{field}={value!r}" for field, value in BAD])
def test_a_bad_value_is_refused_and_its_field_named(field, value):
    with pytest.raises(RecipeError) as caught:
        recipe(**{field: value})
    message = str(caught.value)
    assert f" has {field} = {value!r}. Allowed: " in message
    assert message.endswith(". Change that field.")
    assert len(message.splitlines()) == 1


def test_every_field_has_a_bad_value_and_another_good_one():
    names = {field.name for field in fields(Recipe)}
    assert {field for field, _ in BAD} == names == set(OTHER)


def test_what_stands_beside_a_recipe_is_a_row_a_table_or_a_recipe():
    table = {"query_template": "{text:pool}", "layer": 1}
    made = recipe(beside=["classical", table, recipes["echo"]])
    alone = Recipe(name="twice, 3", **table)
    assert made.prompts == (recipe(), recipes["classical"], alone, recipes["echo"])
    assert Recipe(**json.loads(json.dumps(made.as_dict()))) == made
    assert hash(made) != hash(recipe())
    with pytest.raises(RecipeError, match="'ehco'"):
        recipe(beside=["ehco"])
    with pytest.raises(RecipeError, match="beside in none"):
        recipe(beside=[made])


def test_a_budget_or_a_layer_that_is_asked_for_is_that_of_every_prompt():
    made = recipe(beside=["echo-deep"]).overridden(layer=1, budget=7)
    assert [(row.layer, row.depth, row.budget) for row in made.prompts] == [(1, None, 7)] * 2


def test_recipes_that_differ_in_a_prompt_beside_them_have_other_fingerprints():
    made = [recipe(), *(recipe(beside=[name]) for name in ("classical", "echo", "echo-deep"))]
    made.append(recipe(beside=["classical", "echo"]))
    made += [replace(row, join="mean") for row in made[1:]]
    assert len({row.fingerprint() for row in made}) == len(made)
    renamed = replace(recipes["classical"], name="other", description="")
    assert recipe(beside=[renamed]).fingerprint() == recipe(beside=["classical"]).fingerprint()
    less = recipe(beside=[replace(renamed, budget=7)])
    assert less.differs_in_budget_alone(recipe(beside=["classical"]))
    assert not less.differs_in_budget_alone(recipe())
    assert not less.differs_in_budget_alone(replace(less, join="mean"))


def test_how_vectors_are_joined_decides_nothing_where_there_is_one():
    assert recipe(join="mean").fingerprint() == recipe().fingerprint()
    assert recipe(join="mean").differs_in_budget_alone(recipe())


def test_a_depth_is_refused_beside_a_layer():
    with pytest.raises(RecipeError, match=r"has depth = 0\.5\. Allowed: left out beside layer = 3"):
        recipe(layer=3, depth=0.5)
    assert recipe(depth=0.5).overridden(layer=3) == recipe(layer=3)


@pytest.mark.parametrize(
    ("depth", "count", "layer"),
    [(0.8, 30, 24), (0.72, 18, 13), (1.0, 30, 30), (1, 6, 6), (0.5, 3, 2), (0.25, 6, 2), (0.01, 30, 0), (0.74, 18, 13)],
)
def test_a_depth_is_the_nearest_layer(depth, count, layer):
    assert recipe(depth=depth).layer_of(count) == layer


def test_a_layer_is_the_same_for_every_model():
    assert (recipe(layer=3).layer_of(30), recipe(layer=-1).layer_of(30)) == (3, -1)


def test_text_of_a_refusal():
    with pytest.raises(RecipeError) as caught:
        recipe(pooling="max")
    assert str(caught.value) == (
        "Recipe 'twice' has pooling = 'max'. Allowed: mean, last, weighted-mean, first, frequency-mean, "
        "attention-mean. Change that field."
    )


@pytest.mark.parametrize("field", ["query_template", "document_template"])
def test_a_bad_template_is_refused_when_the_recipe_is_made(field):
    with pytest.raises(TemplateError, match="pools nothing"):
        recipe(**{field: "{bos}{text}"})


def test_document_template_is_the_query_template_unless_given():
    assert Recipe(name="one", query_template=TWICE).document_template == TWICE
    assert recipe(document_template="{text:pool}").template("document").source == "{text:pool}"
    assert recipe(document_template="{text:pool}").template("query").source == TWICE


def test_positional_and_unknown_arguments_are_refused():
    with pytest.raises(TypeError):
        Recipe("twice", TWICE)
    with pytest.raises(TypeError, match="poling"):
        recipe(poling="mean")


# Identity


@pytest.mark.parametrize("field", sorted(OTHER))
def test_fingerprint_changes_with_every_field_that_decides_a_vector_and_with_no_other(field):
    beside = {"beside": ["classical"]} if field == "join" else {}  # else there is nothing to join
    changed = recipe(**beside, **{field: OTHER[field]})
    assert (changed.fingerprint() == recipe(**beside).fingerprint()) == (field in NOTES)
    assert changed != recipe()


def test_fingerprints_are_all_different_and_16_hexadecimal_digits():
    prints = [recipe(**{field: OTHER[field]}).fingerprint() for field in sorted(set(OTHER) - NOTES - {"join"})]
    assert len({*prints, recipe().fingerprint()}) == len(prints) + 1
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in prints)


def test_fingerprint_stays_the_same_from_version_to_version():
    """It is stored with vectors: a change of it throws them away, so it must be meant."""
    assert recipes["echo"].fingerprint() == "c6566713f6e9d71e"


def test_a_recipe_whose_copies_differ_in_their_blank_has_another_fingerprint_than_in_the_first_release():
    """Its vectors are others than then: copies had the blank of the first one. Those of other recipes are the same."""
    assert Recipe(name="x", query_template="{bos}{text} {text:pool}").fingerprint() != "57a3a443a7827400"
    assert Recipe(name="x", query_template="{bos}a {text} {text:pool}").fingerprint() == "867e3af05a352c3a"


def test_equal_recipes_are_equal_and_hash_alike():
    assert recipe() == recipe()
    assert hash(recipe()) == hash(recipe())
    assert len({recipe(), recipe(), recipe(layer=3), recipe(name="thrice")}) == 3
    assert recipe(markers={"close": "]"}) == recipe(markers={"close": "]"})
    assert recipe(adapters=["a"]) == recipe(adapters=("a",))


def test_a_recipe_is_frozen():
    markers = {"close": "]"}
    one = recipe(markers=markers)
    with pytest.raises(FrozenInstanceError):
        one.layer = 3
    with pytest.raises(TypeError):
        one.markers["close"] = "x"
    before = one.fingerprint()
    markers["close"] = "x"
    assert one.fingerprint() == before
    one.as_dict()["markers"]["close"] = "x"
    assert one.fingerprint() == before


@pytest.mark.parametrize("row", recipes.values(), ids=list(recipes))
def test_a_recipe_survives_every_way_of_copying_it(row):
    plain = row.as_dict()
    assert Recipe(**plain) == row
    assert Recipe(**json.loads(json.dumps(plain))) == row
    assert pickle.loads(pickle.dumps(row)) == row
    assert copy.deepcopy(row) == copy.copy(row) == replace(row) == row
    assert pickle.loads(pickle.dumps(row)).fingerprint() == row.fingerprint()
    assert f"name={row.name!r}" in repr(row)
    assert row.overridden(layer=2) != row


# The table and files of recipes


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        recipes["mine"] = recipe()
    assert echoembed.recipes is recipes


def test_names_are_found_and_near_names_suggested():
    assert find_recipe("echo") is recipes["echo"]
    assert find_recipe(recipe()) == recipe()
    with pytest.raises(RecipeError, match=r"There is no recipe 'ehco'.*Did you mean 'echo'"):
        find_recipe("ehco")
    for no_name in (None, 5, b"echo", "", ["echo"]):
        with pytest.raises(RecipeError, match="There is no recipe"):
            find_recipe(no_name)


def test_a_published_checkpoint_finds_its_row():
    assert recipe_of_checkpoint("jspringer/echo-mistral-7b-instruct-lasttoken") is recipes["echo-finetuned-last"]
    assert recipe_of_checkpoint("JSpringer/Echo-Mistral-7B-Instruct-MeanToken") is recipes["echo-finetuned-mean"]
    assert recipe_of_checkpoint("GritLM/GritLM-7B") is recipes["gritlm-7b"]
    assert recipe_of_checkpoint("Qwen/Qwen3-0.6B") is None
    assert recipe_of_checkpoint("") is None


def test_a_file_of_recipes_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[twice]\nquery_template = '{bos}Say: {text} Again: {text:pool}'\n\n"
        "['with a blank']\nquery_template = '{text:pool}{close:pool}'\nmarkers = { close = ']' }\nlayer = 3\n"
        "adapters = ['org/adapter']\ntrained = true\n",
        encoding="utf-8",
    )
    rows = load_recipes(path)
    assert list(rows) == ["twice", "with a blank"]
    assert rows["twice"] == Recipe(name="twice", query_template=TWICE)
    assert rows["with a blank"].adapters == ("org/adapter",)
    assert load_recipes(str(path)) == rows
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark, as some editors on Windows put it
    assert load_recipes(path) == rows


def test_a_file_names_what_stands_beside_a_recipe_in_any_order_and_from_the_table(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[both]\nquery_template = '{text:pool}'\njoin = 'mean'\n"
        "beside = ['mine', 'echo', { query_template = '{text:pool}.', layer = 1 }]\n"
        "[mine]\nquery_template = '{text:pool}!'\n",
        encoding="utf-8",
    )
    rows = load_recipes(path)
    assert list(rows) == ["both", "mine"]
    assert rows["both"].beside[:2] == (rows["mine"], recipes["echo"])
    assert (rows["both"].beside[2].name, rows["both"].beside[2].layer) == ("both, 4", 1)
    for wrong, said in (
        ("['yours']", "'yours'"),
        ("['both']", "beside in none"),
        ("['metaeol']", "beside in none"),
        ("[{ query_template = '{text:pool}', pooln = 1 }]", "pooln"),
    ):
        path.write_text(f"[both]\nquery_template = '{{text:pool}}'\nbeside = {wrong}\n", encoding="utf-8")
        with pytest.raises(RecipeError, match=said):
            load_recipes(path)


GOOD = "query_template = '{text:pool}'"
FILES = [
    ("[twice]\nquery_template = 5", RecipeError, "has query_template = 5"),
    (f"[twice]\n{GOOD}\ndepth = 1{'0' * 400}", RecipeError, "'twice' has depth = 1000"),
    (f"[twice]\n{GOOD}\npoolng = 'mean'", RecipeError, "has an unknown key 'poolng'.*Did you mean 'pooling'"),
    (f"[twice]\n{GOOD}\nname = 'once'", RecipeError, "has an unknown key 'name'"),
    (f"[twice]\n{GOOD}\npooling = 'max'", RecipeError, "'twice' has pooling = 'max'"),
    (f"[twice]\n{GOOD}\nmarkers = ['x']", RecipeError, "'twice' has markers"),
    (f"[twice]\n{GOOD}\nadapters = 'org/adapter'", RecipeError, "'twice' has adapters"),
    ("[twice]\npooling = 'mean'", RecipeError, "the recipe twice has no query_template"),
    ("[twice]\nquery_template = '{text}'", TemplateError, "pools nothing"),
    ("twice = '{text:pool}'", RecipeError, "twice is no table"),
    ("[[twice]]\n" + GOOD, RecipeError, "twice is no table"),
    ("[twice\n", RecipeError, "cannot be read: .*line 1"),
    (f"[twice]\n{GOOD}\n{GOOD}", RecipeError, "cannot be read: .*Cannot overwrite"),
    ('{"twice": 1}', RecipeError, "cannot be read"),
    (b"\xff\xfe[twice]", RecipeError, "cannot be read: .*utf-8"),
    (b"\x00", RecipeError, "cannot be read"),
]


@pytest.mark.parametrize(("content", "kind", "problem"), FILES)
def test_a_file_that_cannot_be_is_refused_in_one_line(tmp_path, content, kind, problem):
    path = tmp_path / "mine.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(kind, match=problem) as caught:
        load_recipes(path)
    assert type(caught.value) is kind
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path, "a\0b", None):
        with pytest.raises(RecipeError, match=r"cannot be read.*It must be TOML with a table per recipe"):
            load_recipes(path)


def test_a_recipe_that_replaces_one_of_the_table_is_meant_beside_others(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f"[a]\n{GOOD}\nbeside = ['echo']\n[echo]\n{GOOD}\nbeside = ['classical']\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"'a' has beside = .'echo'.\. Allowed: .* beside in none"):
        load_recipes(path)


def test_an_empty_file_has_no_recipes(tmp_path):
    path = tmp_path / "mine.toml"
    path.touch()
    assert load_recipes(path) == {}


# PromptEOL's preparation

PREPARED = [
    ("A boat.", "A boat"),
    ("A boat", "A boat"),
    ("A boat?", "A boat"),
    ("A boat!", "A boat!"),
    ("A boat..", "A boat."),
    ("A boat?!", "A boat?!"),
    ('He said "go".', "He said 'go'"),
    ('He said "go."', "He said 'go.'"),
    ("A boat. ", "A boat. "),
    (".", "."),
    ("?", "?"),
    (" .", " ."),
    ('"', "'"),
    ("北京。", "北京。"),
]


@pytest.mark.parametrize(("text", "prepared"), PREPARED)
def test_prompteol_sets_the_full_stop_and_the_quotes(text, prepared):
    assert prepare(text, "prompteol") == prepared
    assert prepare(text, "none") == text
    assert prepared.strip()


# The authors' own tokenisation, written down again from their published code, on a tokenizer of that model


@cache
def sentences() -> list[str]:
    with gzip.open(need_shared("data/sts/sts12/test.jsonl.gz"), "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    long = [" ".join(row["sentence1"] for row in rows[start : start + 40]) for start in range(0, 200, 40)]
    return [*(row["sentence2"] for row in rows[::7]), *long]


@cache
def instructions() -> list[str]:
    """The instructions of the paper's appendix."""
    table = json.loads(need_shared("paper/instructions.json").read_text(encoding="utf-8"))
    return sorted({row["instruction"] for part in table.values() for row in part if row.get("instruction")})


def rendered(name: str, kind: str, text: str, instruction: str = "", tokenizer: str = "mistral-v1") -> Rendered:
    row = recipes[name]
    ready = partial(prepare, preparation=row.preparation)
    bound = Renderer(row.template(kind), pieces(tokenizer), budget=row.budget, context=None, prepare=ready)
    return bound.render([text], instruction)[0]


def piece_by_piece(*parts: str) -> list[int]:
    """Every piece alone, each with SentencePiece's blank in front, cut after 300 tokens."""
    return [id_ for part in parts for id_ in original_ids("mistral-v1", part)[:300]]


def test_rows_of_the_echo_checkpoints_give_the_authors_ids():
    cut = 0
    for number, text in enumerate(sentences()):
        instruction = instructions()[number % len(instructions())]
        for row in ("echo-finetuned-last", "echo-finetuned-mean"):
            query = rendered(row, "query", text, instruction)
            theirs = piece_by_piece(
                "<s>Instruct:", f"{instruction},", "\nQuery:", text, "\nQuery again:", text, "</s>"
            )  # fmt: skip
            assert list(query.ids) == theirs
            document = rendered(row, "document", text)
            assert list(document.ids) == piece_by_piece(
                "<s>Document:", text, "\nDocument again:", text, "</s>"
            )  # fmt: skip
            pooled = 1 if row == "echo-finetuned-last" else 1 + len(piece_by_piece(text))
            assert query.span == (len(query.ids) - pooled, len(query.ids))
            assert document.span == (len(document.ids) - pooled, len(document.ids))
            cut += query.dropped > 0
    assert cut >= 4
    assert len(instructions()) > 30


def joint(text: str) -> list[int]:
    return [1, *original_ids("mistral-v1", text)]


def test_row_of_gritlm_gives_the_authors_ids():
    """One string after BOS; the mean runs over the text alone, which is the last of it."""
    for number, text in enumerate(sentences()):
        instruction = instructions()[number % len(instructions())]
        for prompt, before in (
            (rendered("gritlm-7b", "query", text, instruction), f"<|user|>\n{instruction}\n<|embed|>\n"),
            (rendered("gritlm-7b", "document", text), "<|embed|>\n"),
        ):
            assert list(prompt.ids) == joint(before + text)
            assert prompt.span == (len(joint(before)), len(prompt.ids))


def test_row_of_e5_mistral_gives_the_authors_ids():
    for number, text in enumerate(sentences()):
        instruction = instructions()[number % len(instructions())]
        query = rendered("e5-mistral-7b", "query", text, instruction)
        document = rendered("e5-mistral-7b", "document", text)
        assert list(query.ids) == [*joint(f"Instruct: {instruction}\nQuery: {text}"), 2]
        assert list(document.ids) == [*joint(text), 2]
        for prompt in (query, document):
            assert prompt.span == (len(prompt.ids) - 1, len(prompt.ids))


@pytest.mark.parametrize("row", ["llm2vec-supervised", "llm2vec-unsupervised"])
def test_rows_of_llm2vec_give_the_authors_ids(row):
    """They average as many of the last tokens as ``{text} [/INST]`` has by itself, BOS not counted."""
    for number, text in enumerate(sentences()[:-5]):
        instruction = instructions()[number % len(instructions())] + ":"
        for prompt, string in (
            (rendered(row, "query", text, instruction), f"[INST] {instruction} {text} [/INST]"),
            (rendered(row, "document", text), f"[INST] {text} [/INST]"),
        ):
            assert list(prompt.ids) == joint(string)
            last = len(original_ids("mistral-v1", f"{text} [/INST]"))
            assert prompt.span == (len(prompt.ids) - last, len(prompt.ids))


def test_row_of_sgpt_gives_the_authors_ids():
    """Brackets by id around the text, all of it pooled; 300 tokens with them."""
    for text in sentences():
        for kind, first, last in (("query", 58, 60), ("document", 90, 92)):
            prompt = rendered("sgpt-5.8b", kind, text, tokenizer="gpt2")
            assert list(prompt.ids) == [first, *original_ids("gpt2", text)[:298], last]
            assert prompt.span == (0, len(prompt.ids))
