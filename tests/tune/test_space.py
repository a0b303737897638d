"""Every candidate is a recipe, each prompt is searched once, and what is pooled says how."""

from echoembed import recipes
from echoembed.tune import space


def test_every_zero_shot_prompt_of_the_table_is_searched_once():
    rows = space.prompts()
    assert {"echo", "classical", "prompteol"} <= {row.name for row in rows}
    assert len({(row.query_template, row.markers, row.preparation) for row in rows}) == len(rows)
    assert not any(row.trained or row.checkpoint or row.attention == "bidirectional" for row in rows)
    searched = {row.query_template for row in rows}
    free = [row for row in recipes.values() if not row.trained and not row.checkpoint and row.attention == "causal"]
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
