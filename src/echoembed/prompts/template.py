"""Templates: from a text to token ids and the pooled span. This file knows tokenizers, and nothing of models.

A template is written in Python's format grammar, with the slots ``{text}``, ``{instruction}``, ``{bos}``, ``{eos}`` and
the recipe's own markers. Only slots marked ``:pool`` are pooled:

    {bos}Rewrite the following paragraph: {text} The rewritten paragraph: {text:pool}

A template is parsed once; user text is never parsed. Literals are tokenised once per model, the text once per input for
all copies that follow a blank, and once for all others. So these copies are identical, and a long text is cut in the
same way in each copy, never in the template. The single blank before a slot belongs to the slot: byte-level BPE then
sees `` The``, and SentencePiece does not see two blanks.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from echoembed import errors
from echoembed.prompts.pieces import Piece, PieceTokenizer

Kind = Literal["query", "document"]
Standing = tuple[bool, bool]
"""What stands before a copy of the text: whether the template has a blank there, and whether the tokenizer adds one."""
SLOTS = ("text", "instruction", "bos", "eos")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a parsed template: a literal (``slot`` is None) or a slot."""

    content: str = ""
    slot: str | None = None
    pooled: bool = False
    blank: bool = False
    """Whether the blank before this slot belongs to it."""


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Args:
        source: The template as written.
        markers: The recipe's own slots: name → the string of the slot, which is tokenised by itself (or is an added
            token), so that it can be pooled.

    Raises:
        TemplateError: If braces are unbalanced, a slot or a conversion is unknown, there is no ``{text}``, or the
            pooled slots are none, or are not neighbours.
    """

    source: str
    markers: Mapping[str, str] | tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "markers", tuple(sorted(dict(self.markers).items())))
        parts = self.parts
        if not any(part.slot == "text" for part in parts):
            raise errors.template_without_text(self.source)
        pooled = [index for index, part in enumerate(parts) if part.pooled]
        if not pooled:
            raise errors.template_pools_nothing(self.source)
        if pooled != list(range(pooled[0], pooled[-1] + 1)):
            raise errors.template_pools_apart(self.source)

    @cached_property
    def spelled(self) -> dict[str, str]:
        """The string of each marker."""
        return dict(self.markers)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The parts in reading order."""
        try:
            fields = list(string.Formatter().parse(self.source))
        except ValueError as error:
            if (position := _unbalanced_at(self.source)) < len(self.source):
                raise errors.template_unbalanced(self.source, position) from error
            slots = re.findall(r"\{(\w*)!", self.source)  # all braces have partners, so the fault is a conversion
            raise errors.template_bad_slot(self.source, slots[0] if slots else "text") from error
        parts: list[Part] = []
        for literal, name, spec, conversion in fields:
            if name is None:
                parts.append(Part(literal))
                continue
            if name not in SLOTS and name not in self.spelled:
                raise errors.template_unknown_slot(self.source, name, (*SLOTS, *self.spelled))
            if spec not in ("", "pool") or conversion is not None:
                raise errors.template_bad_slot(self.source, name)
            blank = literal.endswith(" ") and name not in ("bos", "eos")
            parts.append(Part(literal[:-1] if blank else literal))
            parts.append(Part(slot=name, pooled=spec == "pool", blank=blank))
        return tuple(part for part in parts if part.slot or part.content)

    @property
    def copies(self) -> int:
        """The number of copies of the text in a prompt."""
        return sum(part.slot == "text" for part in self.parts)

    @property
    def mixed(self) -> bool:
        """Whether copies of the text may have different tokens: after a blank, after none, or at the beginning."""
        first = next(place for place, part in enumerate(self.parts) if part.slot not in ("bos", "eos"))
        copies = [(part.blank, place == first) for place, part in enumerate(self.parts) if part.slot == "text"]
        return len(set(copies)) > 1

    def has(self, slot: str) -> bool:
        """Return whether the template has a slot of that name."""
        return any(part.slot == slot for part in self.parts)


@dataclass(frozen=True, slots=True)
class Rendered:
    """One prompt, ready for the model.

    Attributes:
        ids: The token ids of the whole prompt, including special tokens.
        span: Start and stop of the pooled tokens in ``ids``; never empty.
        prefix: The number of tokens before the first copy, with which all prompts of this template and instruction
            begin.
        dropped: The number of the text's tokens that were over the budget, counted for one copy: the most of
            any of its prompts.
        text: The prompt as text, with special tokens spelled out, and the text cut where its tokens are cut.
        beside: The same text's further prompts, if the recipe has several.
        copies: Start and stop of each copy of the text in ``ids``.
        room: The most tokens of text in each copy, in the prompt that ``dropped`` counts; None if nothing limits them.
    """

    ids: tuple[int, ...]
    span: tuple[int, int]
    prefix: int = 0
    dropped: int = 0
    text: str = ""
    beside: tuple[Rendered, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()
    room: int | None = None

    def __post_init__(self) -> None:
        start, stop = self.span
        assert 0 <= start < stop <= len(self.ids) and 0 <= self.prefix <= len(self.ids)  # noqa: PT018 (a hot path)

    @property
    def all(self) -> tuple[Rendered, ...]:
        """This prompt, then those beside it."""
        return (self, *self.beside)

    @property
    def tokens(self) -> int:
        """The number of tokens that the model reads for the text, in all its prompts."""
        return sum(len(prompt.ids) for prompt in self.all)


class Renderer:
    """A template bound to a tokenizer and to a budget.

    Args:
        template: The parsed template.
        tokenizer: The model's tokenizer for pieces.
        budget: The most tokens of text in each copy; None for as many as the context holds.
        context: The most tokens that the model reads at once; None if nothing limits them.
        prepare: Changes a text before it is tokenised.

    Raises:
        TemplateError: If the template needs a token that the tokenizer lacks, or a literal spells a special token.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: PieceTokenizer,
        *,
        budget: int | None,
        context: int | None,
        prepare: Callable[[str], str] = str,
    ) -> None:
        self.template = template
        self.context = context
        self.budget = budget
        self._tokenizer = tokenizer
        self._prepare = prepare
        for part in template.parts:
            if part.slot is None and (token := tokenizer.special_in(part.content)):
                raise errors.template_spells_special(template.source, token)
            if part.slot == "eos" and tokenizer.eos is None:
                raise errors.template_wants_token(template.source, "eos")
            if part.slot == "bos" and part.pooled and tokenizer.bos is None:
                raise errors.template_wants_token(template.source, "bos")
        # The blank that the tokenizer puts in front of a whole text goes to the first part that is no special token.
        self._first = next(part for part in template.parts if part.slot not in ("bos", "eos"))
        # One tokenisation serves all copies that stand alike; of these, the first is kept here.
        copies = [part for part in template.parts if part.slot == "text"]
        self._copies = {self._standing(part): part for part in reversed(copies)}
        kinds = list(self._copies)
        self._kinds = [kinds.index(self._standing(part)) if part.slot == "text" else -1 for part in template.parts]
        self._fixed = [self._fixed_ids(part) for part in template.parts]
        self._instructions: dict[str, Piece] = {}

    def _standing(self, part: Part) -> Standing:
        """Return what decides the blanks in front of a copy: the template's blank, and the tokenizer's own."""
        return part.blank, part is self._first and self._tokenizer.leading_blank != "never"

    def _fixed_ids(self, part: Part) -> tuple[int, ...]:
        """Return the ids of a part that is the same for every text; none for other parts."""
        if part.slot == "bos":
            return () if self._tokenizer.bos is None else (self._tokenizer.bos,)
        if part.slot == "eos":
            return () if self._tokenizer.eos is None else (self._tokenizer.eos,)
        if part.slot is not None and part.slot in self.template.spelled:
            content = self.template.spelled[part.slot]
            before = self._spaced(part, content).removesuffix(content)
            return self._tokenizer.marker(content, before, written=part.blank)
        if part.slot is None:
            return self._tokenizer.encode([self._spaced(part, part.content)])[0].ids
        return ()

    def _spaced(self, part: Part, content: str) -> str:
        """Return the content with the blanks that belong to it."""
        content = " " + content if part.blank else content
        if part is self._first and self._tokenizer.begins_with_blank(content):
            return " " + content
        return content

    def room(self, instruction: str = "") -> int | None:
        """Return the most tokens of text in each copy: the budget, or fewer if the context is full.

        Raises:
            TextError: If template and instruction leave no room for text.
        """
        if self.context is None:
            return self.budget
        fixed = sum(map(len, self._fixed))
        fixed += sum(len(self._instruction(part, instruction).ids) for part in self._parts("instruction"))
        room = (self.context - fixed) // self.template.copies
        if room < 1:
            instructed = bool(instruction) and self.template.has("instruction")
            raise errors.no_room_for_text(fixed, self.context, self.template.copies, instructed=instructed)
        return room if self.budget is None else min(room, self.budget)

    def layout(self, instruction: str = "") -> list[tuple[int, ...] | None]:
        """The ids of the prompt's fixed parts in reading order, with None where a copy of the text goes.

        Args:
            instruction: What goes into ``{instruction}``.
        """
        layout: list[tuple[int, ...] | None] = []
        for part, fixed in zip(self.template.parts, self._fixed, strict=True):
            ids = self._instruction(part, instruction).ids if part.slot == "instruction" else fixed
            if part.slot == "text" or not layout or layout[-1] is None:
                layout.append(None if part.slot == "text" else ids)
            else:
                layout[-1] += ids
        return layout

    def copies_alike(self) -> bool:
        """Return whether all copies of a text have the same tokens: all follow a blank, or none does."""
        return len(self._copies) == 1

    def blank_before_text(self) -> bool | None:
        """Whether copies that are alike begin with a blank; None where they do as a whole text would, at the start."""
        (part,) = self._copies.values()
        return None if part is self._first else part.blank

    def _parts(self, slot: str) -> list[Part]:
        return [part for part in self.template.parts if part.slot == slot]

    def _instruction(self, part: Part, instruction: str) -> Piece:
        content = self._spaced(part, instruction) if instruction else ""
        if content not in self._instructions:
            if len(self._instructions) >= 1024:  # a caller may have another instruction for each text
                self._instructions.clear()
            self._instructions[content] = self._tokenizer.encode([content])[0]
        return self._instructions[content]

    def render(self, texts: Sequence[str], instruction: str = "") -> list[Rendered]:
        """Turn texts into prompts, in order.

        Args:
            texts: Checked texts (see ``check_text``).
            instruction: What fills ``{instruction}``.

        Raises:
            TextError: If a text has no tokens, or there is no room for it.
        """
        room = self.room(instruction)
        prepared = [self._prepare(text) for text in texts]
        spaced = [[self._spaced(part, text) for text in prepared] for part in self._copies.values()]
        pieces = [self._tokenizer.encode(copies) for copies in spaced]
        by_text = zip(prepared, zip(*spaced, strict=True), zip(*pieces, strict=True), strict=True)
        return [self._assemble(copies, pieces, len(text), instruction, room) for text, copies, pieces in by_text]

    def _assemble(
        self, copies: Sequence[str], pieces: Sequence[Piece], length: int, instruction: str, room: int | None
    ) -> Rendered:
        # 1. Cut each kind of copy to the room there is, all at the same character.
        kept = _kept(copies, pieces, length, room)
        dropped = max(len(piece.ids) - count for piece, count in zip(pieces, kept, strict=True))
        cut = [piece.ids[:count] for piece, count in zip(pieces, kept, strict=True)]
        if dropped:
            copies = [
                copy if count == len(piece.ids) else copy[: piece.ends[count - 1]]
                for copy, piece, count in zip(copies, pieces, kept, strict=True)
            ]
        # 2. Put the parts in order.
        ids: list[int] = []
        strings: list[str] = []
        bounds: list[int] = []
        places: list[tuple[int, int]] = []
        for part, kind, fixed in zip(self.template.parts, self._kinds, self._fixed, strict=True):
            start = len(ids)
            if part.slot == "text":
                ids.extend(cut[kind])
                strings.append(copies[kind])
                places.append((start, len(ids)))
            elif part.slot == "instruction":
                ids.extend(self._instruction(part, instruction).ids)
                strings.append(self._spaced(part, instruction) if instruction else "")
            else:
                ids.extend(fixed)
                strings.append(self._string_of(part, fixed))
            if part.pooled:
                bounds += [start, len(ids)]
        # 3. The span goes from the beginning of the first pooled slot to the end of the last.
        if bounds[0] == bounds[-1]:
            raise errors.template_pools_nothing(self.template.source)
        span = (bounds[0], bounds[-1])
        return Rendered(tuple(ids), span, places[0][0], dropped, "".join(strings), copies=tuple(places), room=room)

    def _string_of(self, part: Part, fixed: tuple[int, ...]) -> str:
        if part.slot in ("bos", "eos"):
            return "".join(map(self._tokenizer.token, fixed))
        return self._spaced(part, part.content if part.slot is None else self.template.spelled[part.slot])


def _kept(copies: Sequence[str], pieces: Sequence[Piece], length: int, room: int | None) -> list[int]:
    """Return how many tokens are read of each kind of copy: as many as there is room for, to the same character.

    Args:
        copies: The copies, each with the blanks that belong to it.
        pieces: Their tokens.
        length: The number of the text's characters, without the blanks.
        room: The most tokens of a copy.
    """
    if not all(piece.ids for piece in pieces):
        raise errors.text_without_tokens(copies[0])
    kept = [len(piece.ids) if room is None else min(len(piece.ids), room) for piece in pieces]
    if len(pieces) > 1 and any(count < len(piece.ids) for piece, count in zip(pieces, kept, strict=True)):
        ends = [
            [end - (len(copy) - length) for end in piece.ends[:count]]
            for copy, piece, count in zip(copies, pieces, kept, strict=True)
        ]
        stop = min(own[-1] for own in ends)
        kept = [max(1, sum(end <= stop for end in own)) for own in ends]
    return kept


def _unbalanced_at(source: str) -> int:
    """Return the position of the first brace without a partner; the length of the source if there is none."""
    alone = (match.start() for match in re.finditer(r"\{\{|\}\}|\{[^{}]*\}|([{}])", source) if match[1])
    return next(alone, len(source))
