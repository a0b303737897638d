"""Every candidate is a recipe, each prompt is searched once, and what is pooled says how."""

from dataclasses import replace

from echoembed import recipes
from echoembed.tune import space


def test_every_zero_shot_prompt_of_the_table_is_searched_once():
    rows = space.prompts()
    assert {"echo", "classical", "prompteol"} <= {row.name for row in rows}
    assert len({(row.query_template, row.markers, row.preparation) for row in rows}) == len(rows)
    assert not any(row.trained or row.checkpoint or row.attention == "bidirectional" for row in rows)
    searched = {row.query_template for row in rows}
    free = [row for row in recipes.values() if not (row.trained or row.checkpoint or row.beside)]
    free = [row for row in free if row.attention == "causal"]
    assert searched == {row.query_template for row in free}


def test_a_candidate_is_a_recipe_of_its_own():
    (prompt,) = space.prompts(["prompteol"])
    found = list(space.candidates(prompt, layers=3))
    assert {candidate.pooling for candidate in found} == {"last"}
    made = [candidate.recipe for candidate in found]
    assert len({recipe.fingerprint() for recipe in made}) == len(made) == 3 * len(space.CALIBRATIONS)
    assert {recipe.layer for recipe in made} == {1, 2, -1}
    (echo,) = space.prompts(["echo"])
    assert {candidate.pooling for candidate in space.candidates(echo, layers=1)} == {"mean", "weighted-mean", "last"}


def test_two_side_by_side_are_a_recipe_with_two_prompts_the_deeper_one_first():
    echo, classical = space.prompts(["echo", "classical"])
    deep, flat = next(space.candidates(echo, layers=3)), list(space.candidates(classical, layers=3))
    flat, alike = flat[0], flat[1]
    deep = replace(deep, layer=3, calibration="z-score")
    (both,) = space.side_by_side([flat, deep])
    assert [(row.query_template, row.layer, row.calibration) for row in both.recipe.prompts] == [
        (echo.query_template, -1, "z-score"),
        (classical.query_template, 0, "none"),
    ]
    assert [part.recipe.fingerprint() for part in both.parts] == [deep.recipe.fingerprint(), flat.recipe.fingerprint()]
    assert list(space.side_by_side([flat, alike])) == [], "one layer of one prompt holds nothing twice"


def test_without_labels_only_what_was_compared_with_true_scores_is_searched():
    prompts = space.prompts(space.UNLABELLED)
    assert {row.name for row in prompts} == {"prompteol", "echo", "echo-deep", "classical"}
    found = [each for row in prompts for each in space.candidates(row, layers=3, labelled=False)]
    assert {(each.prompt.name, each.pooling) for each in found} == {
        (row.name, "last" if row.name == "prompteol" else "mean") for row in prompts
    }
    joined = list(space.side_by_side(found, labelled=False))
    assert {(each.beside.prompt.name, each.beside.layer) for each in joined} == {("classical", 1)}
    assert {each.prompt.name for each in joined} == set(space.UNLABELLED)
