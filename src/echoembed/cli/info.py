"""``echoembed info``: the facts about a model under a recipe.

Loading checks the model: it proves the attention, the templates and the engine.
"""

from __future__ import annotations

from echoembed.cli import groups, session
from echoembed.cli import options as opt
from echoembed.cli import output as out

EPILOG = opt.examples(
    "echoembed info",
    "echoembed info -m Qwen/Qwen3-0.6B -r echo-last --dtype bfloat16",
    "echoembed info --json",
)


def info(model: groups.ModelOptions, recipe: opt.Recipe = None, json: opt.Json = False) -> None:
    """Load and check a model under a recipe, and describe the result.

    The fingerprint goes with every stored vector. Do not compare vectors with different fingerprints.
    """
    session.check_names(model, [recipe])
    loaded = session.load(model, recipe)
    from echoembed import describe

    facts = describe(loaded)
    if json:
        out.print_json(facts)
    else:
        out.print_facts(facts)
