"""A configuration that exists is sound: every bad value is refused at birth, by its field's name."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import get_args

import pytest

from echoembed import checks
from echoembed.errors import ModelError, RecipeError, TrainingError
from echoembed.recipe import recipes
from echoembed.sources.adapters import is_adapter
from echoembed.sources.names import check_model
from echoembed.training import fields
from echoembed.training.config import TrainConfig, differences, from_dict, read, recipe_of
from echoembed.training.tables import (
    AdapterConfig,
    CheckpointConfig,
    DataConfig,
    MaskingConfig,
    OptimiserConfig,
    ScoreConfig,
    TeacherConfig,
)

EXAMPLES = Path(__file__).parents[2] / "examples" / "train"
INSTRUCTIONS = Path(__file__).parents[3] / "shared" / "paper" / "instructions.json"
TABLES = {
    "adapter": AdapterConfig,
    "optimiser": OptimiserConfig,
    "masking": MaskingConfig,
    "teacher": TeacherConfig,
    "checkpoint": CheckpointConfig,
    "score": ScoreConfig,
}


def run(**changes):
    """A configuration of one data set."""
    return TrainConfig(**{"output": "out", "data": [DataConfig(path="rows.jsonl")], **changes})


def leaves():
    """Every field: the table it is in, empty for the outermost, and its name."""
    found = [("data", entry.name) for entry in dataclasses.fields(DataConfig)]
    found += [(table, entry.name) for table, kind in TABLES.items() for entry in dataclasses.fields(kind)]
    return [("", entry.name) for entry in dataclasses.fields(TrainConfig)] + found


def distilling(**changes):
    """A configuration that has what distillation alone may have."""
    data = [DataConfig(path="rows.jsonl"), DataConfig(path="texts.jsonl")]
    return run(**{"objective": "distil", "teacher": TeacherConfig(model="teacher"), "data": data, **changes})


def of_distillation(table, name):
    return table == "teacher" or name in ("pairs", "neighbours")


def changed(table, name, value):
    """A configuration with one field given another value."""
    if table == "teacher":
        return distilling(teacher=TeacherConfig(**{**({} if name == "vectors" else {"model": "teacher"}), name: value}))
    if name in ("pairs", "neighbours"):
        return distilling(data=[DataConfig(**{"path": "rows.jsonl", name: value}), DataConfig(path="texts.jsonl")])
    if table == "data":
        return run(data=[DataConfig(**{"path": "rows.jsonl", name: value})])
    return run(**{table: TABLES[table](**{name: value})} if table else {name: value})


# Values


@pytest.mark.parametrize(("table", "name"), leaves())
def test_every_field_refuses_what_is_not_of_its_type(table, name):
    strange = object()
    with pytest.raises(
        TrainingError, match=rf"^Got {re.escape(f'{table}.{name}'.lstrip('.'))} = <object .*Allowed: \w"
    ):
        changed(table, name, strange)


BAD = [
    ("", "output", " ", "not blank"),
    ("", "objective", "constrastive", "contrastive, mntp, simcse"),
    ("", "pooling", "max", "mean, last, weighted-mean, first."),
    ("", "attention", "sideways", "causal, bidirectional"),
    ("", "budget", 0, "above 0"),
    ("", "budget", 2.5, "whole number"),
    ("", "seed", -1, "from 0 to"),
    ("", "seed", True, "whole number"),
    ("", "save", "whole", "adapter, merged"),
    ("", "dropout", 1.0, "below 1"),
    ("", "tensorboard", "yes", "true or false"),
    ("data", "path", "", "not blank"),
    ("data", "ratio", -0.1, "0 or above"),
    ("data", "ratio", float("nan"), "0 or above"),
    ("data", "negatives", -1, "from 0 to 1,000"),
    ("data", "rows", 0, "above 0"),
    ("data", "instruction", "  ", "not blank"),
    ("data", "instruction", ["a", "a"], "different strings"),
    ("data", "instruction", [], "different strings"),
    ("data", "instruction", ["a", " "], "not blank"),
    ("data", "instruction", "a\x00b", "control characters"),
    ("data", "bad_rows", "drop", "refuse, skip"),
    ("adapter", "rank", -1, "from 0 to 10,000"),
    ("adapter", "alpha", 0, "above 0"),
    ("adapter", "dropout", 1, "below 1"),
    ("adapter", "targets", "", "all-linear"),
    ("adapter", "targets", [], "all-linear"),
    ("optimiser", "steps", 0, "from 1 to 100,000,000"),
    ("optimiser", "batch_size", 0, "above 0"),
    ("optimiser", "chunk_size", 0, "above 0"),
    ("optimiser", "learning_rate", 0.0, "above 0"),
    ("optimiser", "learning_rate", float("inf"), "above 0"),
    ("optimiser", "warmup_steps", -1, "0 or above"),
    ("optimiser", "weight_decay", -1, "0 or above"),
    ("optimiser", "max_gradient_norm", -1, "0 or above"),
    ("optimiser", "temperature", 0, "above 0"),
    ("optimiser", "precision", "float16", "float32, bfloat16"),
    ("masking", "rate", 0, "above 0"),
    ("masking", "rate", 1.1, "up to 1"),
    ("masking", "scheme", "none", "80-10-10, all"),
    ("masking", "token", " ", "not blank"),
    ("checkpoint", "every", 0, "above 0"),
    ("checkpoint", "keep", 0, "above 0"),
    ("score", "every", -1, "0 or above"),
    ("score", "sample", 0, "above 0"),
    ("score", "tasks", "sts", "list of at least one string"),
]


@pytest.mark.parametrize(("table", "name", "value", "allowed"), BAD)
def test_a_bad_value_is_refused_by_name_with_what_is_allowed(table, name, value, allowed):
    with pytest.raises(TrainingError) as caught:
        changed(table, name, value)
    message = str(caught.value)
    assert message.startswith(f"Got {f'{table}.{name}'.lstrip('.')} = ")
    assert allowed in message


def numbers():
    """Every field that takes a number."""
    for table, name in leaves():
        kind = TABLES[table] if table and table != "data" else DataConfig if table else TrainConfig
        if {int, float} & {checks.hints(kind)[name], *get_args(checks.hints(kind)[name])}:
            yield table, name


@pytest.mark.parametrize("value", [10**400, -(10**400)])
@pytest.mark.parametrize(("table", "name"), numbers())
def test_numbers_that_no_library_holds_are_refused(table, name, value):
    """They would overflow where a tensor, a table or a float is made of them."""
    with pytest.raises(TrainingError, match=rf"^Got {re.escape(f'{table}.{name}'.lstrip('.'))} = -?1000"):
        changed(table, name, value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"objective": "simcse", "dropout": 0}, "dropout"),
        ({"objective": "simcse", "adapter": {"dropout": 0.1}}, "adapter.dropout"),
        ({"objective": "simcse", "data": [{"path": "a.jsonl", "negatives": 2}]}, "data.negatives"),
        ({"objective": "simcse", "data": [{"path": "a.jsonl", "symmetric": True}]}, "data.symmetric"),
        (
            {"objective": "mntp", "recipe": "classical-bidirectional", "optimiser": {"temperature": 0.1}},
            "optimiser.temperature",
        ),
        ({"save": "merged", "adapter": {"rank": 0, "targets": ["q_proj"]}}, "adapter.targets"),
        ({"save": "merged", "adapter": {"rank": 0, "alpha": 3.0}}, "adapter.alpha"),
        ({"data": [{"path": "a.jsonl", "name": "a\nb"}]}, "data.name"),
        ({"data": [{"path": "a.jsonl", "name": " "}]}, "data.name"),
        ({"data": [{"path": "a#1.jsonl"}]}, "data.name"),
        ({"data": [{"path": "a\0b.jsonl", "name": "a"}]}, "data.path"),
        ({"data": [{"path": "a.jsonl", "negatives": 10**9}]}, "data.negatives"),
        ({"pooling": "frequency-mean"}, "pooling"),
        ({"score": {"tasks": []}}, "score.tasks"),
        (
            {"objective": "distil", "teacher": {"model": "a"}, "data": [{"path": "a", "pairs": True}]},
            "data.pairs",
        ),
        ({"objective": "distil", "teacher": {"model": ["a", ""]}}, "teacher.model"),
        ({"objective": "distil", "teacher": {"model": []}}, "teacher"),
        ({"objective": "distil", "teacher": {"model": ["a", 3]}}, "teacher.model"),
        ({"teacher": {"model": ["a", "b"]}}, "teacher.model"),
        ({"optimiser": {"steps": 10, "warmup_steps": 11}}, "optimiser.warmup_steps"),
        ({"optimiser": {"steps": 1, "warmup_steps": 0, "compute_matched": True}}, "optimiser.steps"),
        ({"optimiser": {"batch_size": 1}}, "optimiser.batch_size"),
        ({"budget": 1, "optimiser": {"compute_matched": True}}, "budget"),
        ({"adapter": {"rank": 0}}, "save"),
        ({"data": [{"path": "a/rows.jsonl"}, {"path": "b/rows.jsonl"}]}, "data.name"),
        ({"data": [{"path": "a.jsonl", "name": "a#1"}]}, "data.name"),
        ({"data": [{"path": "a.jsonl", "ratio": 1.0}, {"path": "b.jsonl"}]}, "data.ratio"),
        ({"objective": "mntp"}, "attention"),
        ({"objective": "mntp", "attention": "bidirectional", "data": [{"path": "a", "instruction": "Do"}]}, "data.in"),
    ],
)
def test_values_that_contradict_each_other_are_refused(changes, field):
    with pytest.raises(TrainingError, match=f"^Got {re.escape(field)}"):
        from_dict({"output": "out", "data": [{"path": "rows.jsonl"}], **changes})


def test_an_instruction_is_needed_where_the_template_has_a_place_for_one_and_refused_where_not():
    with pytest.raises(TrainingError, match=r"'rows' has no instruction.*'echo-finetuned-last' has a place"):
        run(recipe="echo-finetuned-last")
    with pytest.raises(TrainingError, match=r"'rows' has the instruction 'Find it'.*'echo' has no place"):
        run(data=[DataConfig(path="rows.jsonl", instruction="Find it")])
    run(recipe="echo-finetuned-last", data=[DataConfig(path="rows.jsonl", instruction="Find it")])
    run(recipe="echo-finetuned-last", objective="simcse")  # reads the recipe's own


def test_an_unknown_recipe_and_a_template_that_cannot_be_are_refused():
    with pytest.raises(RecipeError, match="echo"):
        run(recipe="ehco")
    with pytest.raises(ValueError, match="never reads the text"):
        run(query_template="{bos}nothing")


def test_numbers_and_lists_become_what_the_fields_say():
    config = run(
        adapter=AdapterConfig(alpha=32, targets=["q_proj"]), data=[DataConfig(path="a", instruction=None or "")]
    )
    assert isinstance(config.adapter.alpha, float)
    assert config.adapter.targets == ("q_proj",)
    assert isinstance(config.data, tuple)


# Files


def write(folder, text):
    path = folder / "run.toml"
    path.write_text(text)
    return path


GOOD = 'output = "out"\n[[data]]\npath = "rows.jsonl"\n'


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "base").mkdir()
    config = read(write(tmp_path, 'model = "base"\n' + GOOD + '[score]\ndata = "../eval"\n'))
    assert config.output == str(tmp_path / "out")
    assert config.data[0].path == str(tmp_path / "rows.jsonl")
    assert config.data[0].name == "rows"
    assert config.score.data == str(tmp_path.parent / "eval")
    assert config.model == str(tmp_path / "base")


def test_a_name_on_the_hub_stays_a_name(tmp_path):
    assert read(write(tmp_path, 'model = "Qwen/Qwen3-0.6B"\n' + GOOD)).model == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output = ", "cannot be read as a configuration"),
        ('[[data]]\npath = "a"\n', "no field 'output' in the configuration"),
        ('output = "out"\n', r"no field '\[\[data\]\]' in the configuration"),
        ('output = "out"\n[[data]]\nname = "a"\n', r"no field 'path' in \[\[data\]\]"),
        ('output = "out"\n[data]\npath = "a"\n', r"Got data = .*headed \[\[data\]\]"),
        ("optimizer = 3\n" + GOOD, "field 'optimizer' in the configuration.*optimiser.*Did you mean 'optimiser'"),
        (GOOD + "[optimiser]\nstep = 3\n", r"field 'step' in \[optimiser\].*Allowed there: steps, batch_size"),
        (GOOD + "negative = 3\n", r"field 'negative' in \[\[data\]\].*Did you mean 'negatives'"),
        ("adapter = 3\n" + GOOD, "Got adapter = 3. Allowed: a table"),
        (GOOD + '[optimiser]\nsteps = "3"\n', "Got optimiser.steps = '3'. Allowed: a whole number from 1"),
    ],
)
def test_a_file_that_cannot_be_says_why(tmp_path, text, message):
    with pytest.raises(TrainingError, match=message):
        read(write(tmp_path, text))


@pytest.mark.parametrize("path", ["a\\u0000b", "x" * 300, "~nobody-has-this-name/x"])
@pytest.mark.parametrize(
    "text",
    [
        'output = "{}"\n[[data]]\npath = "rows.jsonl"\n',
        'output = "out"\n[[data]]\npath = "{}"\nname = "a"\n',
        GOOD + '[score]\ndata = "{}"\n',
        'objective = "distil"\n' + GOOD + '[teacher]\nvectors = "{}"\n',
    ],
)
def test_a_path_that_no_system_can_look_up_is_refused_by_name(tmp_path, path, text):
    with pytest.raises(
        TrainingError, match=r"^Got (output|data.path|score.data|teacher.vectors) = .*Allowed: a path that"
    ):
        read(write(tmp_path, text.format(path)))


@pytest.mark.parametrize("name", ["x" * 300, "a\\u0000b"])
def test_a_models_name_that_can_be_no_path_stays_a_name(tmp_path, name):
    """It is refused where models are looked up."""
    config = read(write(tmp_path, f'model = "{name}"\n' + GOOD))
    assert config.model == name.replace("\\u0000", "\0")
    assert not is_adapter(config.model)
    with pytest.raises(ModelError):
        check_model(config.model)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    (tmp_path / "run.toml").write_text("\ufeff" + GOOD, encoding="utf-8")
    assert read(tmp_path / "run.toml").output == str(tmp_path / "out")


def test_a_file_that_is_missing_or_no_text_says_so(tmp_path):
    with pytest.raises(TrainingError, match="No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(TrainingError, match="cannot be read as a configuration"):
        read(tmp_path / "run.toml")


# What follows from a configuration


def test_the_dictionary_gives_the_configuration_back_through_json():
    config = run(
        recipe="echo-finetuned-last",
        budget=64,
        data=[DataConfig(path="a.jsonl", instruction=["one", "two"]), DataConfig(path="b.jsonl", instruction="three")],
        adapter=AdapterConfig(targets=["q_proj", "v_proj"], end_token=False),
        score=ScoreConfig(tasks=["sts", "pair"]),
    )
    assert from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_compute_matched_halves_steps_and_budget_once():
    config = run(recipe="echo", optimiser=OptimiserConfig(steps=720, warmup_steps=100, compute_matched=True))
    done = config.effective()
    assert (done.optimiser.steps, done.optimiser.warmup_steps, done.budget) == (360, 50, recipes["echo"].budget // 2)
    assert recipe_of(config).budget == recipe_of(done).budget == 256
    assert done.effective() == done
    assert run().effective() == run()


def test_the_recipe_is_the_rows_with_the_changes():
    row = recipes["echo-finetuned-last"]
    data = [DataConfig(path="a.jsonl", instruction="Find")]
    plain = recipe_of(run(recipe=row.name, data=data))
    assert plain.fingerprint() == row.fingerprint()
    assert (plain.checkpoint, plain.adapters, plain.trained) == ("", (), False)
    other = recipe_of(run(recipe=row.name, data=data, pooling="mean", attention="bidirectional", budget=7))
    assert (other.pooling, other.attention, other.budget) == ("mean", "bidirectional", 7)
    assert other.query_template == row.query_template


def test_documents_follow_a_new_query_template_only_where_the_recipe_has_one_for_both():
    assert recipe_of(run(query_template="Q {text:pool}")).document_template == "Q {text:pool}"
    two = run(recipe="classical-finetuned", query_template="Q {text:pool}")
    assert recipe_of(two).document_template == recipes["classical-finetuned"].document_template
    both = run(query_template="Q {text:pool}", document_template="D {text:pool}")
    assert recipe_of(both).document_template == "D {text:pool}"


def test_several_instructions_make_a_part_each():
    data = [DataConfig(path="a.jsonl", instruction=["one", "two"]), DataConfig(path="b.jsonl", instruction="three")]
    parts = run(recipe="echo-finetuned-last", data=data).parts
    assert [(part.name, part.source, part.instruction) for part in parts] == [
        ("a#0", 0, "one"),
        ("a#1", 0, "two"),
        ("b", 1, "three"),
    ]


OTHER = {
    ("", "output"): "elsewhere",
    ("", "objective"): "simcse",
    ("", "model"): "other",
    ("", "revision"): "v2",
    ("", "recipe"): "classical",
    ("", "query_template"): "{text:pool}",
    ("", "document_template"): "{text:pool}",
    ("", "pooling"): "last",
    ("", "attention"): "bidirectional",
    ("", "save"): "merged",
    ("data", "path"): "other.jsonl",
    ("data", "name"): "other",
    ("data", "bad_rows"): "skip",
    ("adapter", "targets"): ["q_proj"],
    ("adapter", "end_token"): True,
    ("adapter", "start"): "tiny-echo",
    ("optimiser", "precision"): "bfloat16",
    ("masking", "scheme"): "all",
    ("masking", "token"): "#",
    ("optimiser", "forward"): "padded",
    ("teacher", "model"): "other",
    ("teacher", "vectors"): "vectors.jsonl",
    ("score", "data"): "elsewhere",
    ("score", "tasks"): ["pair"],
}
FREE = {"output", "save", "finished_budget", "tensorboard", "checkpoint", "score"}


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (table, name)
        for table, name in leaves()
        if (table, name) != ("data", "instruction") and name not in (*TABLES, "data")
    ],
)
def test_every_field_that_changes_the_result_is_told_apart(table, name):
    old = distilling() if of_distillation(table, name) else run()
    default = getattr(old if not table else old.data[0] if table == "data" else getattr(old, table), name)
    other = OTHER.get((table, name))
    if other is None:
        other = not default if isinstance(default, bool) else (default or 0) + 1 if name != "rate" else 0.3
        if name == "dropout":
            other = 0.1
    found = differences(old, changed(table, name, other))
    if (table or name) in FREE:
        assert found == []
    else:
        assert [one for one in found if one.field.endswith(name) and one.old != one.new], found


def test_differences_say_field_and_both_values():
    assert differences(run(), run(seed=3)) == [("seed", 0, 3)]
    assert differences(run(), run()) == []
    twice = run(data=[DataConfig(path="rows.jsonl"), DataConfig(path="more.jsonl")])
    assert ("data", ["rows"], ["rows", "more"]) in differences(run(), twice)


# What is shipped


def test_every_field_has_a_meaning():
    documented = {(field.table.strip("[]"), field.name) for field in fields.fields() if len(field.meaning) > 10}
    inner = {("", name) for name in (*TABLES, "data")}
    assert documented == set(leaves()) - inner
    assert all(field.type and field.default for field in fields.fields())
    [steps] = [field for field in fields.fields() if field.name == "steps"]
    assert steps == ("[optimiser]", "steps", "a whole number", "1000", "Optimiser steps.")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_the_examples_can_be_read(path):
    assert read(path).data


def test_the_papers_run_has_the_papers_settings():
    config = read(EXAMPLES / "paper.toml")
    optimiser = config.optimiser
    assert (optimiser.steps, optimiser.batch_size, optimiser.learning_rate, optimiser.temperature) == (
        720,
        2048,
        8e-4,
        1 / 50,
    )
    assert (config.adapter.rank, config.adapter.alpha) == (16, 16)
    assert len(config.data) == 16
    symmetric = {entry.name for entry in config.data if entry.symmetric}
    assert symmetric == {"allnli_split2", "quora_duplicates_split1", "quora_duplicates_split2"}


@pytest.mark.skipif(not INSTRUCTIONS.exists(), reason="the paper's tables are not here")
def test_the_papers_run_has_the_instructions_of_table_15():
    table = [row["instruction"] for row in json.loads(INSTRUCTIONS.read_text())["finetuning"]]
    config = read(EXAMPLES / "paper.toml")
    assert sorted(entry.instruction for entry in config.data) == sorted(table)


def test_a_rule_says_more_than_its_type():
    assert checks.words(int | None) == "a whole number, or left out"
    assert checks.words(str | tuple[str, ...]) == "a string, or a list of strings"


def test_a_recipe_with_a_calibration_is_refused_before_anything_is_read():
    """It would be of the weights before training."""
    with pytest.raises(TrainingError, match=r"Got recipe = 'echo-deep'\. Allowed: a recipe without a calibration"):
        TrainConfig(output="out", recipe="echo-deep", data=(DataConfig(path="none.jsonl"),))


def test_a_recipe_with_several_prompts_is_refused_before_anything_is_read():
    with pytest.raises(TrainingError, match=r"Got recipe = 'metaeol'\. Allowed: a recipe with a single prompt"):
        TrainConfig(output="out", recipe="metaeol", data=(DataConfig(path="none.jsonl"),))
