"""Random prompts (appendix D), with random wording, punctuation, markers and capitals; and the paper's list of prompts.

    classical   {instruction}{separator} {prefix} S
    echo        {instruction}{separator} {prefix0} S{separator} {prefix1} S'
    PromptEOL   {instruction0}{separator} {prefix} S {instruction1}{separator}

Appendix D names the instructions and PromptEOL's endings. It gives separators and prefixes only by example; the options
here are those of its examples.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from echoembed.recipe import Pooling, Recipe

Method = Literal["classical", "echo", "prompteol"]
INSTRUCTIONS: dict[Method, tuple[str, ...]] = {
    "classical": ("Write", "Say", "Complete", "Explain"),
    "echo": ("Repeat", "Rewrite", "Rephrase", "Fill in the blank"),
    "prompteol": ("Summarize", "Categorize", "Understand", "Analyze"),
}
NOUNS = ("sentence", "paragraph", "response", "query", "prompt", "text")
ANSWERS = (
    "in one word",
    "with a single word",
    "succinctly with one word",
    "in a unique one-word way",
    "in a single word",
    "in a word",
)
SEPARATORS = (":", ",", "\n", ".", "!", " —", " ::", "")
LABELS = (
    ("", ""),
    ("sentence", "sentence"),
    ("query", "query"),
    ("prompt", "response"),
    ("text", "answer"),
    ("", "again"),
)
MARKERS = (
    ("", ""),
    ("1)", "2)"),
    ("(1)", "(2)"),
    ("[0]", "[1]"),
    ("A)", "B)"),
    ("(A)", "(B)"),
    ("I]", "II]"),
    ("a_i", "b_i"),
    ("@", "@"),
    ("↓", "↓"),
    ("—", "—"),
    ("-", "-"),
)
CASES: tuple[Callable[[str], str], ...] = (str, str.upper, str.lower, str.title)
POOLINGS: dict[Method, tuple[Pooling, ...]] = {
    "classical": ("mean", "last"),
    "echo": ("mean", "last"),
    "prompteol": ("last",),  # the state that would say the word
}
_SOURCE = "Appendix D"


def listed(method: Method, pooling: Pooling = "mean") -> list[Recipe]:
    """Return the prompts that the paper lists for a method."""
    prompts = json.loads(Path(__file__).with_name("prompts.json").read_text(encoding="utf-8"))[method]
    recipes = []
    for number, prompt in enumerate(prompts, start=1):
        template, answer = prompt if isinstance(prompt, list) else (prompt, "")
        recipes.append(_recipe(method, pooling, f"listed {number}", template, answer))
    return recipes


def sampled(method: Method, count: int, seed: int, pooling: Pooling = "mean") -> list[Recipe]:
    """Return ``count`` different random prompts, the same for the same seed."""
    draw = random.Random(f"{method} {seed}")  # noqa: S311
    prompts: dict[tuple[str, str], None] = {}
    while len(prompts) < count:
        prompts.setdefault(_draw(method, draw))
    return [_recipe(method, pooling, f"sampled {number}", *prompt) for number, prompt in enumerate(prompts, start=1)]


def _recipe(method: Method, pooling: Pooling, name: str, template: str, answer: str) -> Recipe:
    return Recipe(
        name=f"{method} {pooling}, {name}",
        query_template="{bos}" + template,
        markers={"answer": answer} if answer else {},
        pooling=pooling,
        source=_SOURCE,
    )


def _draw(method: Method, draw: random.Random) -> tuple[str, str]:
    """Draw a template, and the string of its slot ``{answer}``."""
    instruction = draw.choice(CASES)(_worded(draw.choice(INSTRUCTIONS[method]), draw))
    separator, labels, markers, case = (
        draw.choice(SEPARATORS),
        draw.choice(LABELS),
        draw.choice(MARKERS),
        draw.choice(CASES),
    )
    prefixes = [
        " ".join(part for part in (case(label), marker) if part) for label, marker in zip(labels, markers, strict=True)
    ]
    opening = _before(instruction + separator, prefixes[0])
    if method == "classical":
        return opening + "{text:pool}", ""
    if method == "echo":
        return opening + "{text}" + _before(separator, prefixes[1]) + "{text:pool}", ""
    answer = draw.choice(CASES)(draw.choice(ANSWERS))
    return opening + "{text}{answer:pool}", f" {answer}{separator.rstrip()}"


def _worded(instruction: str, draw: random.Random) -> str:
    """Complete an instruction with its object: "Say a query", "Repeat the text", "Say something"."""
    if instruction == "Fill in the blank":
        return f"{instruction} in the {draw.choice(NOUNS)}"
    if instruction in ("Write", "Say", "Explain"):
        noun = draw.choice((*NOUNS[:-1], "something" if instruction == "Say" else "some text"))
        return f"{instruction} {noun}" if noun.startswith("some") else f"{instruction} a {noun}"
    return f"{instruction} the {draw.choice(NOUNS)}"


def _before(separator: str, prefix: str) -> str:
    """Join separator and prefix, to stand before a copy, with one blank or line break between any two."""
    joined = separator if separator.endswith("\n") else separator + " "
    return f"{joined}{prefix} " if prefix else joined
