"""Random prompts are seeded, reach every option, and pool what their method pools."""

from typing import get_args

import pytest

from echoembed.experiments import prompts
from echoembed.experiments.experiment import Setting
from echoembed.experiments.figure3 import prompt_recipes
from echoembed.experiments.figure4 import BUDGETS, ZERO_SHOT, budgeted
from echoembed.experiments.prompts import Method, listed, sampled
from echoembed.recipe import recipes

METHODS = get_args(Method)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_draws_the_same_prompts_and_they_differ_among_each_other(method):
    first, again, other = sampled(method, 40, 1), sampled(method, 40, 1), sampled(method, 40, 2)
    assert [row.query_template for row in first] == [row.query_template for row in again]
    assert [row.query_template for row in first] != [row.query_template for row in other]
    assert len({row.fingerprint() for row in first}) == 40


@pytest.mark.parametrize("method", METHODS)
def test_every_option_is_reached(method):
    drawn = [(row.query_template, dict(row.markers).get("answer", "")) for row in sampled(method, 1500, 3)]
    everything = [template + answer for template, answer in drawn]
    options = [*prompts.INSTRUCTIONS[method], *(noun for noun in prompts.NOUNS), *prompts.SEPARATORS]
    options += [marker for pair in prompts.MARKERS for marker in (pair if method == "echo" else pair[:1])]
    options += prompts.ANSWERS if method == "prompteol" else []
    for option in options:
        assert any(option in text for text in everything), option
    if method != "echo":
        return
    for first, second in prompts.LABELS:
        assert any(first in text and second in text for text in everything)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", [lambda m: sampled(m, 60, 5), listed], ids=["sampled", "listed"])
def test_prompts_pool_the_last_reading_or_the_answer_and_nothing_else(method, source):
    for row in source(method):
        parts = row.template("query").parts
        pooled = [part.slot for part in parts if part.pooled]
        assert pooled == (["answer"] if method == "prompteol" else ["text"])
        assert row.template("query").copies == (2 if method == "echo" else 1)
        last_text = [part for part in parts if part.slot == "text"][-1]
        assert last_text.pooled == (method != "prompteol")
        assert parts[0].slot == "bos"


def test_the_paper_lists_13_12_and_12_prompts():
    assert [len(listed(method)) for method in METHODS] == [13, 12, 12]


def test_quick_takes_fewer_prompts_than_full_and_both_poolings():
    quick, full = prompt_recipes(quick=True, seed=1), prompt_recipes(quick=False, seed=1)
    assert len(quick) == 5 * 7 < len(full)
    assert {row.pooling for row in quick if row.name.startswith("echo")} == {"mean", "last"}
    assert len({row.name for row in full}) == len(full)


def test_a_budget_is_shared_by_the_readings_and_grows(tmp_path):
    for name in ZERO_SHOT:
        rows = budgeted(recipes[name], Setting(out=tmp_path, quick=False))
        read = [row.budget * row.template("query").copies for row in rows]
        assert read == list(BUDGETS) == sorted(BUDGETS)
