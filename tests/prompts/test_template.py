"""What a prompt is made of: identical copies, the exact span, whole templates, and the joined string's ids."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from echoembed.errors import TemplateError, TextError
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.prompts.template import Rendered, Renderer, Template
from echoembed.recipe import prepare, recipes
from tokenizers_for_tests import (
    ORDINARY_TOKEN,
    SENTENCES,
    SPELLED,
    bounded,
    every_built_tokenizer,
    every_real_tokenizer,
    every_tokenizer,
    gpt2_style,
    hostile_texts,
    need_shared,
    original_ids,
    pieces,
    plain_texts,
    tokenizer,
    why_refused,
)

ECHO = "{bos}Rewrite the following paragraph: {text} The rewritten paragraph: {text:pool}"
CLASSICAL = "{bos}Write a paragraph: {text:pool}"
INSTRUCT = "{bos}Instruct: {instruction}\nQuery: {text} Query again: {text:pool}{eos:pool}"
# Templates whose every seam has a blank or a line break, so that their joined string can be told.
JOINABLE = [
    ECHO,
    CLASSICAL,
    INSTRUCT,
    "{bos}{text:pool}{eos:pool}",
    "{text:pool}",
    "{bos}{{twice}}: {text} }} {text} {{ {text:pool}{eos}",
]
MARKERS = {"open": "[", "close": "]", "keep": ORDINARY_TOKEN}
TEMPLATES = [
    *JOINABLE,
    "{text}{text:pool}",
    "{bos:pool}{text:pool}{eos:pool}",
    "{bos}{text}\n{text}\n{text}{eos:pool}",
    "{open:pool}{text:pool}{close:pool}",
    '{bos}This sentence : "{text}{open:pool}',
    "{keep}{instruction}: {text} again:{text:pool}{keep:pool}",
]
# Some copies follow a blank and others do not, also by the blank that some tokenizers put in front of a whole text.
MIXED = ["{bos}{text} {text:pool}", "{text} again: {text} {text:pool}{eos}"]
INSTRUCTIONS = ["", "Retrieve similar text.", "Où? 北京 {text:pool}", "</s> <s> [SEP]", "a" * 50]
SLOT = re.compile(r"(?<!\{)\{(\w+)(?::pool)?\}(?!\})")

templates = st.sampled_from(TEMPLATES)
instructions = st.sampled_from(INSTRUCTIONS)


@dataclass(frozen=True)
class Layout:
    """A prompt with the place of each of its slots."""

    prompt: Rendered
    slots: list[str]
    places: list[tuple[int, int]]
    pooled: list[bool]

    def ids(self, place: tuple[int, int]) -> tuple[int, ...]:
        return self.prompt.ids[slice(*place)]

    def copies(self) -> list[tuple[int, ...]]:
        return [self.ids(place) for slot, place in zip(self.slots, self.places, strict=True) if slot == "text"]

    def outside(self) -> list[tuple[int, ...]]:
        """Ids between the slots: literals and instruction."""
        bounds = [0, *(bound for place in self.places for bound in place), len(self.prompt.ids)]
        return [self.prompt.ids[start:stop] for start, stop in zip(bounds[::2], bounds[1::2], strict=True)]


@cache
def renderer(name: str, source: str, budget: int | None = None, context: int | None = None) -> Renderer:
    return Renderer(Template(source, MARKERS), pieces(name), budget=budget, context=context)


def alike(name: str, source: str) -> bool:
    """Whether all copies of a text are to have the same ids."""
    return renderer(name, source).copies_alike()


def fits(name: str, source: str) -> bool:
    """Whether the tokenizer has the special tokens that the template wants."""
    return ("{eos" not in source or pieces(name).eos is not None) and (
        "{bos:pool" not in source or pieces(name).bos is not None
    )


def lay_out(
    name: str, source: str, text: str, instruction: str = "", *, budget: int | None = None, context: int | None = None
) -> Layout:
    """Render, and find each slot's place by pooling it alone: marking moves the span and nothing else."""
    found = [match for match in SLOT.finditer(source) if match[1] != "instruction"]  # which may have no tokens
    slots = [match[1] for match in found]
    assume(not why_refused(lambda: renderer(name, source).render([text], instruction)))
    prompt = renderer(name, source, budget, context).render([text], instruction)[0]
    places = []
    for match, slot in zip(found, slots, strict=True):
        if slot == "bos" and pieces(name).bos is None:
            places.append((0, 0))
            continue
        unmarked = SLOT.sub(lambda m: f"{{{m[1]}}}", source[: match.start()])
        after = SLOT.sub(lambda m: f"{{{m[1]}}}", source[match.end() :])
        alone = renderer(name, f"{unmarked}{{{slot}:pool}}{after}", budget, context).render([text], instruction)[0]
        assert alone.ids == prompt.ids
        places.append(alone.span)
    return Layout(prompt, slots, places, [":pool" in match[0] for match in found])


def _ids(name: str, text: str) -> tuple[int, ...]:
    return pieces(name).encode([text])[0].ids


def joined(source: str, text: str, instruction: str = "") -> str:
    """The prompt as one string, by plain replacement and without special tokens; no instruction has no blank."""
    source = source if instruction else source.replace(" {instruction}", "")
    said = {"{{": "{", "}}": "}", "text": text, "instruction": instruction, "bos": "", "eos": ""}
    return re.sub(r"\{\{|\}\}|\{(\w+)(:pool)?\}", lambda m: said[m[1] or m[0]], source)


def joint_ids(name: str, source: str, string: str) -> list[int]:
    """The oracle: ids of the joined string by the tokenizer itself, BOS and EOS put around them."""
    bos, eos = pieces(name).bos, pieces(name).eos
    first = [bos] if "{bos}" in source and bos is not None else []
    return [*first, *original_ids(name, string), *([eos] if "{eos" in source else [])]


# What holds for every tokenizer, template and text


@every_tokenizer
def test_all_copies_of_the_text_have_the_same_ids(name):
    @bounded
    @given(hostile_texts, templates, instructions)
    def check(text, source, instruction):
        assume(fits(name, source) and alike(name, source))
        copies = lay_out(name, source, text, instruction).copies()
        assert len(copies) == Template(source, MARKERS).copies
        assert copies[0]
        assert set(copies) == {copies[0]}

    check()


@every_tokenizer
def test_what_is_marked_is_pooled_and_nothing_else(name):
    @bounded
    @given(hostile_texts, templates, instructions)
    def check(text, source, instruction):
        assume(fits(name, source))
        layout = lay_out(name, source, text, instruction)
        marked = [place for place, pooled in zip(layout.places, layout.pooled, strict=True) if pooled]
        assert layout.prompt.span == (marked[0][0], marked[-1][1])
        positions = {position for start, stop in marked for position in range(start, stop)}
        assert positions == set(range(*layout.prompt.span))
        assert positions

    check()


@every_tokenizer
def test_echo_pools_the_second_copy_and_no_token_more(name):
    @bounded
    @given(hostile_texts)
    def check(text):
        layout = lay_out(name, ECHO, text)
        first, second = layout.places[-2:]
        assert layout.prompt.span == second
        assert layout.ids(second) == layout.ids(first) == _ids(name, " " + text)
        assert second[1] == len(layout.prompt.ids)
        assert second[0] >= first[1] + 3  # "The rewritten paragraph:" stands between them

    check()


@every_tokenizer
def test_template_is_the_same_around_every_text(name):
    @bounded
    @given(hostile_texts, templates, instructions)
    def check(text, source, instruction):
        assume(fits(name, source))
        layout, other = lay_out(name, source, text, instruction), lay_out(name, source, "a b", instruction)
        assert layout.outside() == other.outside()
        assert not any(pieces(name).special_ids.intersection(literal) for literal in layout.outside())

    check()


@every_tokenizer
def test_bos_and_eos_stand_where_the_template_puts_them_and_nowhere_else(name):
    @bounded
    @given(hostile_texts, st.sampled_from(SPELLED), templates, instructions)
    def check(text, spelled, source, instruction):
        assume(fits(name, source))
        layout = lay_out(name, source, f"{text} {spelled}", instruction)
        wanted = {
            place[0]: getattr(pieces(name), slot)
            for slot, place in zip(layout.slots, layout.places, strict=True)
            if slot in ("bos", "eos") and getattr(pieces(name), slot) is not None
        }
        special = pieces(name).special_ids
        assert {at: id_ for at, id_ in enumerate(layout.prompt.ids) if id_ in special} == wanted

    check()


@every_tokenizer
def test_truncation_cuts_the_copies_alike_and_nothing_else(name):
    @bounded
    @given(hostile_texts, templates, instructions, st.integers(1, 12))
    def check(text, source, instruction, budget):
        assume(fits(name, source) and alike(name, source))
        whole = lay_out(name, source, text, instruction)
        cut = lay_out(name, source, text, instruction, budget=budget)
        tokens = whole.copies()[0]
        assert cut.copies() == [tokens[:budget]] * len(cut.copies())
        assert cut.prompt.dropped == max(0, len(tokens) - budget)
        assert cut.outside() == whole.outside()
        for slot, place, other in zip(cut.slots, cut.places, whole.places, strict=True):
            assert slot == "text" or cut.ids(place) == whole.ids(other)

    check()


@every_tokenizer
def test_budget_in_force_is_all_that_the_context_holds_and_never_more(name):
    refused, fitted = 0, 0

    @bounded
    @given(hostile_texts, templates, instructions, st.integers(1, 90), st.none() | st.integers(1, 30))
    def check(text, source, instruction, context, budget):
        nonlocal refused, fitted
        assume(fits(name, source) and alike(name, source))
        whole = lay_out(name, source, text, instruction)
        tokens, copies = whole.copies()[0], len(whole.copies())
        fixed = len(whole.prompt.ids) - copies * len(tokens)
        bound = renderer(name, source, budget, context)
        if fixed + copies > context:
            refused += 1
            message = f"take {fixed} tokens of a context of {context}, which leaves no room"
            with pytest.raises(TextError, match=message):
                bound.room(instruction)
            with pytest.raises(TextError, match=message):
                bound.render([text], instruction)
            return
        fitted += 1
        room = bound.room(instruction)
        prompt = bound.render([text], instruction)[0]
        most = (context - fixed) // copies
        assert room == (most if budget is None else min(most, budget))
        assert len(prompt.ids) <= context
        assert len(prompt.ids) == fixed + copies * min(room, len(tokens))
        assert prompt.dropped == max(0, len(tokens) - room)

    check()
    assert refused
    assert fitted


@every_tokenizer
def test_rendered_text_is_the_prompt(name):
    @bounded
    @given(hostile_texts, st.sampled_from([*JOINABLE, *MIXED]), instructions)
    def check(text, source, instruction):
        assume(fits(name, source))
        prompt = lay_out(name, source, text, instruction).prompt
        bos, eos = (id_ if id_ is None else pieces(name).token(id_) for id_ in (pieces(name).bos, pieces(name).eos))
        string = joined(source, text, instruction)
        leading = pieces(name).leading_blank
        if leading == "always" or (leading == "missing" and not string.startswith(" ")):
            string = " " + string
        string = (bos or "") + string if "{bos}" in source else string
        assert prompt.text == (string + eos if "{eos" in source else string)

    check()


@every_tokenizer
def test_rendered_text_of_a_cut_prompt_cuts_every_copy_at_the_same_place(name):
    @bounded
    @given(hostile_texts, st.sampled_from(JOINABLE), instructions, st.integers(1, 8))
    def check(text, source, instruction, budget):
        assume(fits(name, source))
        copies = Template(source, MARKERS).copies
        whole = lay_out(name, source, text, instruction).prompt
        cut = lay_out(name, source, text, instruction, budget=budget).prompt
        kept, rest = divmod(len(cut.text) - (len(whole.text) - copies * len(text)), copies)
        assert rest == 0
        if not cut.dropped:
            assert cut.text == whole.text
            return
        # A blank that belongs to the slot may be the first token of the copy, and all that is left of it.
        shown = text[: max(kept, 0)]
        around = whole.text.split(text) if kept >= 0 and whole.text.count(text) == copies else []
        assert cut.text == shown.join(around) or not around
        assert kept <= len(text)

    check()


@pytest.mark.parametrize("name", ["gpt2-style", "llama2-style", "gpt2", "mistral-v1", "llama-3", "qwen"])
def test_rendered_text_of_a_cut_prompt_is_what_the_kept_tokens_say(name):
    for sentence in SENTENCES[:8]:
        for budget in (1, 5, 9):
            layout = lay_out(name, CLASSICAL, sentence, budget=budget)
            said = tokenizer(name).backend_tokenizer.decode(list(layout.copies()[0]), skip_special_tokens=False)
            assert layout.prompt.text.endswith(f"Write a paragraph: {said.strip()}")
            assert layout.prompt.dropped > 0


@every_built_tokenizer
def test_text_is_never_parsed_as_a_template(name):
    for text in ("{text:pool}", "{", "}", "{{}}", "{0}", "{instruction}", "{eos}", "%s", "\\1"):
        layout = lay_out(name, INSTRUCT, text, "{text} {bos} }{")
        assert layout.copies() == [_ids(name, " " + text)] * 2
        assert f"Instruct: {{text}} {{bos}} }}{{\nQuery: {text} Query again: {text}" in layout.prompt.text


@every_tokenizer
def test_a_text_is_refused_only_where_nothing_is_left_of_it(name):
    @bounded
    @given(hostile_texts)
    def check(text):
        refused = why_refused(lambda: renderer(name, ECHO).render([text]))
        if "has no tokens" in refused:
            assert not original_ids(name, text)
        else:
            assert not refused or ("spells a special token" in refused and "\uff1c" in text)

    check()


@every_built_tokenizer
def test_a_batch_is_rendered_as_its_texts_are_one_by_one(name):
    bound = renderer(name, ECHO, 7)
    assert bound.render(SENTENCES) == [bound.render([sentence])[0] for sentence in SENTENCES]
    assert bound.render([]) == []


# The ids of the joined string


@every_built_tokenizer
def test_ids_are_those_of_the_joined_string(name):
    @bounded
    @given(plain_texts, st.sampled_from([*JOINABLE[:5]]), st.sampled_from(INSTRUCTIONS[1:2]))
    def check(text, source, instruction):
        prompt = renderer(name, source).render([text], instruction)[0]
        assert list(prompt.ids) == joint_ids(name, source, joined(source, text, instruction))

    check()


@every_built_tokenizer
@pytest.mark.parametrize("source", MIXED)
def test_copies_after_a_blank_and_after_none_each_have_the_ids_of_the_joined_string(name, source):
    for text in SENTENCES:
        prompt = renderer(name, source).render([text])[0]
        assert list(prompt.ids) == joint_ids(name, source, joined(source, text))
        assert prompt.ids[slice(*prompt.span)] == _ids(name, " " + text)


@every_tokenizer
def test_copies_after_a_blank_and_after_none_are_cut_at_the_same_character(name):
    @bounded
    @given(plain_texts, st.sampled_from(MIXED), st.integers(3, 9))
    def check(text, source, budget):
        assume(fits(name, source) and not alike(name, source))
        bound = renderer(name, source, budget)
        prompt, fixed = bound.render([text])[0], sum(len(ids) for ids in bound.layout() if ids is not None)
        assert len(prompt.ids) <= fixed + bound.template.copies * budget
        read = next(text[:end] for end in range(len(text), 0, -1) if joined(source, text[:end]) in prompt.text)
        assert (read == text) == (prompt.dropped == 0)

    check()


EVERY_SENTENCE = bool(os.environ.get("ECHOEMBED_EVERY_SENTENCE"))


@cache
def sentences(step: int) -> list[str]:
    """The sentences of all STS sets, each once; every ``step``-th, or all with ECHOEMBED_EVERY_SENTENCE=1."""
    found: dict[str, None] = {}
    for path in sorted(need_shared("data/sts").glob("*/*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                found[row["sentence1"]] = found[row["sentence2"]] = None
    return list(found)[:: 1 if EVERY_SENTENCE else step]


def exceptions(name: str, recipe_name: str, texts: Sequence[str]) -> list[str]:
    """Texts, as prepared, whose prompt has other ids than the joined string."""
    recipe = recipes[recipe_name]
    ready = partial(prepare, preparation=recipe.preparation)
    prompts = Renderer(
        recipe.template("query"), pieces(name), budget=None, context=None, prepare=ready
    ).render(texts)  # fmt: skip
    source = recipe.query_template.replace("{answer:pool}", dict(recipe.markers).get("answer", ""))
    strings = [joined(source, ready(text)) for text in texts]
    encodings = tokenizer(name).backend_tokenizer.encode_batch(strings, add_special_tokens=False)
    bos = [] if pieces(name).bos is None else [pieces(name).bos]
    return [
        ready(text)
        for text, prompt, encoding in zip(texts, prompts, encodings, strict=True)
        if list(prompt.ids) != bos + encoding.ids
    ]


def note(record_property, different, texts):
    """Put the numbers into the report (``pytest -rP`` shows them)."""
    record_property("exceptions", f"{len(different)} of {len(texts)}")
    sys.stdout.write(f"{len(different)} of {len(texts)} differ: {different[:5]}\n")


# GPT-NeoX has tokens for runs of blanks: a blank at the end of a text and the template's after it are one token
# in the joined string, and two here. 36 of the 27444 sentences end in a blank.
RUNS_OF_BLANKS = {"gpt-neox-20b"}


@every_real_tokenizer
@pytest.mark.parametrize("recipe", ["echo", "classical"])
def test_ids_of_real_sentences_are_those_of_the_joined_string(name, recipe, record_property):
    texts = sentences(4 if recipe == "echo" else 12)
    different = exceptions(name, recipe, texts)
    note(record_property, different, texts)
    if name in RUNS_OF_BLANKS and recipe == "echo":
        assert set(different) == {text for text in texts if text.endswith(" ")}
        different = []
    assert len(different) <= 0.001 * len(texts)


@every_real_tokenizer
def test_ids_of_prompteol_differ_only_where_a_mark_meets_the_quote(name, record_property):
    """The quotes stand right at the text, and merge with a mark at its edge: ``"'`` and ``)."`` are tokens."""
    texts = sentences(12)
    different = exceptions(name, "prompteol", texts)
    note(record_property, different, texts)
    assert [text for text in different if text[0].isalnum() and text[-1].isalnum()] == []
    assert len(different) <= 0.05 * len(texts)


# Templates that cannot be

BAD = [
    ("{bos}Say: {txt:pool}", "unknown slot 'txt' at position 10", "Did you mean 'text'?"),
    ("{text:pool} {tex}", "unknown slot 'tex' at position 12", "Rename it or declare it among the recipe's markers"),
    ("{text} {}", "unknown slot '' at position 7", "Slots: text, instruction, bos, eos"),
    ("{0}", "unknown slot '0' at position 0", "Rename it"),
    ("{text.upper:pool}", "unknown slot 'text.upper' at position 0", "Did you mean 'text'?"),
    ("{text[0]:pool}", "unknown slot 'text[0]' at position 0", "Did you mean 'text'?"),
    ("{ text:pool}", "unknown slot ' text' at position 0", "Did you mean 'text'?"),
    ("Say: {text}", "pools nothing (looked from position 0 to 11)", "{text:pool}"),
    ("{bos}{text}{eos}", "pools nothing", "Mark what is pooled"),
    ("{bos}Say: {text:pool", "a brace without its partner at position 10", "write {{ or }} for a brace"),
    ("{bos}Say: text:pool}", "a brace without its partner at position 19", "write {{ or }} for a brace"),
    ("{", "a brace without its partner at position 0", "write {{ or }} for a brace"),
    ("}", "a brace without its partner at position 0", "write {{ or }} for a brace"),
    ("{text:pool}}", "a brace without its partner at position 11", "write {{ or }} for a brace"),
    ("{{a}} {text:pool} {", "a brace without its partner at position 18", "write {{ or }} for a brace"),
    ("{text{bos}:pool}", "a brace without its partner at position 0", "write {{ or }} for a brace"),
    ("{text:pool} }{", "a brace without its partner at position 12", "write {{ or }} for a brace"),
    ("", "never reads the text", "Put {text} or {text:pool}"),
    ("{bos:pool}Say", "never reads the text (looked from position 0 to 13)", "Put {text} or {text:pool}"),
    ("{{text:pool}}", "never reads the text", "Put {text} or {text:pool}"),
    ("{bos}{text!r:pool}", "a slot 'text' with an unknown ending at position 5", "{text:pool} where it is pooled"),
    ("Hey! {text!r}", "a slot 'text' with an unknown ending at position 5", "{text:pool} where it is pooled"),
    ("Hey! {text!}", "a slot 'text' with an unknown ending at position 5", "{text:pool} where it is pooled"),
    ("{text!rr:pool}", "a slot 'text' with an unknown ending at position 0", "{text:pool} where it is pooled"),
    ("{text:pool} {text:mean}", "a slot 'text' with an unknown ending at position 12", "{text:pool} where it is"),
    ("{text:>10}", "a slot 'text' with an unknown ending at position 0", "Write {text}, or {text:pool}"),
    ("{text:{bos}}", "a slot 'text' with an unknown ending at position 0", "Write {text}, or {text:pool}"),
    ("{text:pool:}", "a slot 'text' with an unknown ending at position 0", "Write {text}, or {text:pool}"),
    ("{text:pool} and {text:pool}", "not neighbours (the first at position 5)", "Pool one run of slots"),
    ("{bos:pool}{text}{eos:pool}", "not neighbours (the first at position 4)", "Pool one run of slots"),
]


@pytest.mark.parametrize(("source", "problem", "remedy"), BAD, ids=[source for source, *_ in BAD])
def test_a_template_that_cannot_be_raises_at_once_and_says_where_and_what_to_do(source, problem, remedy):
    with pytest.raises(TemplateError) as caught:
        Template(source)
    message = str(caught.value)
    assert message.startswith(f"Template {source!r} ")
    assert problem in message
    assert remedy in message
    assert len(message.splitlines()) == 1


def test_a_marker_is_a_slot_where_the_recipe_has_it():
    Template("{open:pool}{text:pool}", {"open": "["})
    with pytest.raises(TemplateError, match=r"unknown slot 'opne' at position 0.*Did you mean 'open'"):
        Template("{opne:pool}{text:pool}", {"open": "["})


BOUND = [
    ("{bos}</s>{text:pool}", "spells the special token '</s>' as text at position 5. Write {bos} or {eos}"),
    ("Say <s> {text:pool}", "spells the special token '<s>' as text at position 4"),
]


@pytest.mark.parametrize(("source", "problem"), BOUND)
@pytest.mark.parametrize("name", ["llama2-style", "unigram-first", "xlmr-style"])
def test_a_literal_that_spells_a_special_token_is_refused_by_the_tokenizer_that_has_it(name, source, problem):
    with pytest.raises(TemplateError, match=re.escape(problem)):
        renderer(name, source)
    Renderer(Template(source), pieces("llama3-style"), budget=None, context=None)


def without_special_tokens() -> PieceTokenizer:
    return PieceTokenizer(PreTrainedTokenizerFast(tokenizer_object=gpt2_style().backend_tokenizer))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            "{text:pool} {eos}",
            "puts {eos} at position 12, but this tokenizer has no such token. Choose a recipe without",
        ),
        ("{text}{eos:pool}", "puts {eos} at position 6, but this tokenizer has no such token"),
        ("{bos:pool}{text:pool}", "puts {bos} at position 0, but this tokenizer has no such token"),
    ],
)
def test_a_template_that_wants_a_token_the_tokenizer_lacks_is_refused(source, problem):
    with pytest.raises(TemplateError, match=re.escape(problem)):
        Renderer(Template(source), without_special_tokens(), budget=None, context=None)


def test_a_bos_that_is_not_pooled_may_be_missing():
    bound = Renderer(Template(CLASSICAL), without_special_tokens(), budget=None, context=None)
    assert bound.render(["a"])[0].text == "Write a paragraph: a"


# Smaller promises


def test_a_text_without_tokens_is_refused():
    with pytest.raises(TextError, match="has no tokens under this model's tokenizer"):
        renderer("bert-style", ECHO).render(["\u200d"])


@every_built_tokenizer
def test_a_marker_that_is_an_added_token_is_that_token_wherever_it_stands(name):
    id_ = tokenizer(name).convert_tokens_to_ids(ORDINARY_TOKEN)
    ids = renderer(name, "{keep}{text:pool}{keep}").render(["a b"])[0].ids
    assert (ids[0], ids[-1]) == (id_, id_)


@every_built_tokenizer
def test_a_blank_before_a_marker_is_kept(name):
    for close in ("keep", "close"):
        prompt = renderer(name, "{text:pool} {" + close + "}").render(["the"])[0]
        assert list(prompt.ids) == original_ids(name, f"the {MARKERS[close]}")


@every_built_tokenizer
def test_a_text_is_prepared_before_it_is_read_and_once_for_all_copies(name):
    seen = []

    def ready(text):
        seen.append(text)
        return "boat"

    prompt = Renderer(Template(ECHO), pieces(name), budget=None, context=None, prepare=ready).render(["the"])[0]
    assert prompt == renderer(name, ECHO).render(["boat"])[0]
    assert seen == ["the"]


def test_more_instructions_than_are_remembered():
    bound = renderer("gpt2-style", INSTRUCT)
    prompts = [bound.render(["a"], f"number {count}")[0] for count in range(1100)]
    assert len(set(prompts)) == 1100
    assert bound.render(["a"], "number 0")[0] == prompts[0]


@every_built_tokenizer
def test_a_context_that_the_instruction_fills_is_refused_for_that_instruction_only(name):
    fixed = len(renderer(name, INSTRUCT).render(["a"], "short")[0].ids)
    bound = renderer(name, INSTRUCT, None, fixed + 2)
    assert bound.render(["a"], "short")
    with pytest.raises(TextError, match="Shorten the instruction"):
        bound.render(["a"], "a far longer instruction than there is room for, with many words")
