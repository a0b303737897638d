"""``echoembed info``: what a model and a recipe come to."""

from __future__ import annotations

from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli import session

EPILOG = opt.examples(
    "echoembed info",
    "echoembed info -m Qwen/Qwen3-0.6B -r echo-last --dtype bfloat16",
    "echoembed info --json",
)


def info(
    json: opt.Json = False,
    model: opt.Model = None,
    adapter: opt.Adapter = None,
    recipe: opt.Recipe = None,
    recipes_file: opt.RecipesFile = None,
    revision: opt.Revision = None,
    layer: opt.Layer = None,
    budget: opt.Budget = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
) -> None:
    """Load a model under a recipe, check it, and say what the two come to.

    The fingerprint goes with every stored vector: vectors with different fingerprints must not be compared.
    """
    loaded = session.load(
        model,
        recipe,
        adapter=adapter,
        recipes_file=recipes_file,
        revision=revision,
        layer=layer,
        budget=budget,
        device=device,
        dtype=dtype,
    )
    from echoembed import describe

    facts = describe(loaded)
    if json:
        out.print_json(facts)
    else:
        out.print_facts(facts)
