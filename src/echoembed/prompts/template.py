"""Templates: text → token ids and the pooled span. Knows tokenizers, knows nothing of models.

A template is written in Python's format grammar, with the slots ``{text}``, ``{instruction}``,
``{bos}``, ``{eos}`` and the recipe's own markers. What is marked ``:pool`` is pooled, nothing else:

    {bos}Rewrite the following paragraph: {text} The rewritten paragraph: {text:pool}

It is parsed once; user text is never parsed. Literals are tokenised once, the text once per
input and used for every copy, so that copies are identical and truncation cuts them alike without
ever touching the template. The single blank before a slot belongs to the slot: byte-level BPE then
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
SLOTS = ("text", "instruction", "bos", "eos")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a parsed template: a literal (``slot`` is None) or a slot."""

    content: str = ""
    slot: str | None = None
    pooled: bool = False
    blank: bool = False
    """Whether the blank before this slot was given to it."""


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Args:
        source: The template as written.
        markers: Slots of the recipe's own: name → the string it stands for, tokenised by itself
            (or the added token of that very name), so that it can be pooled.

    Raises:
        TemplateError: For unbalanced braces, an unknown slot or conversion, a template without
            ``{text}``, without anything pooled, or with pooled slots that are not neighbours.
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
        """What each marker stands for."""
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
        """How many copies of the text the prompt holds."""
        return sum(part.slot == "text" for part in self.parts)

    def has(self, slot: str) -> bool:
        """Whether the template has that slot."""
        return any(part.slot == slot for part in self.parts)


@dataclass(frozen=True, slots=True)
class Rendered:
    """One prompt, ready for the model.

    Attributes:
        ids: Token ids of the whole prompt, special tokens among them.
        span: Start and stop of the pooled tokens in ``ids``; never empty.
        prefix: Tokens before the first copy: every prompt of this template and instruction begins with them.
        dropped: Tokens of the text that were over the budget, counted once, not per copy.
        text: The prompt as text, special tokens spelled out, the text cut where its tokens are.
    """

    ids: tuple[int, ...]
    span: tuple[int, int]
    prefix: int = 0
    dropped: int = 0
    text: str = ""

    def __post_init__(self) -> None:
        start, stop = self.span
        assert 0 <= start < stop <= len(self.ids) and 0 <= self.prefix <= len(self.ids)  # noqa: PT018 (a hot path)


class Renderer:
    """A template bound to a tokenizer and to a budget.

    Args:
        template: The parsed template.
        tokenizer: The model's tokenizer, without its edge habits.
        budget: Most tokens of text, per copy; None for what the context holds.
        context: Most tokens that the model reads at once, or None if it has no limit.
        prepare: What is done to a text before it is tokenised.

    Raises:
        TemplateError: If the tokenizer has no EOS where the template wants one, or a literal
            spells one of its special tokens.
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
        # The blank that the tokenizer puts in front of a whole text goes to the first part with words.
        self._first = next(part for part in template.parts if part.slot not in ("bos", "eos"))
        # One tokenisation serves every copy: if one of them follows a blank, they all begin with it.
        copies = [part for part in template.parts if part.slot == "text"]
        self._copy = next((part for part in copies if part is self._first or part.blank), copies[0])
        self._fixed = [self._fixed_ids(part) for part in template.parts]
        self._instructions: dict[str, Piece] = {}

    def _fixed_ids(self, part: Part) -> tuple[int, ...]:
        """Ids of a part that is the same for every input."""
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
        """The content with the blanks that belong to it."""
        content = " " + content if part.blank else content
        if part is self._first and self._tokenizer.begins_with_blank(content):
            return " " + content
        return content

    def room(self, instruction: str = "") -> int | None:
        """Most tokens of text, per copy, that this prompt takes: the budget, or less if the context is full.

        Raises:
            TextError: If prompt and instruction leave no room for any text.
        """
        if self.context is None:
            return self.budget
        fixed = sum(map(len, self._fixed))
        fixed += sum(len(self._instruction(part, instruction).ids) for part in self._parts("instruction"))
        room = (self.context - fixed) // self.template.copies
        if room < 1:
            raise errors.no_room_for_text(fixed, self.context)
        return room if self.budget is None else min(room, self.budget)

    def _parts(self, slot: str) -> list[Part]:
        return [part for part in self.template.parts if part.slot == slot]

    def _instruction(self, part: Part, instruction: str) -> Piece:
        content = self._spaced(part, instruction) if instruction else ""
        if content not in self._instructions:
            if len(self._instructions) >= 1024:  # for callers with an instruction for each text
                self._instructions.clear()
            self._instructions[content] = self._tokenizer.encode([content])[0]
        return self._instructions[content]

    def render(self, texts: Sequence[str], instruction: str = "") -> list[Rendered]:
        """Turn texts into prompts, in order.

        Args:
            texts: Checked texts (see ``check_text``).
            instruction: What goes into ``{instruction}``.

        Raises:
            TextError: If a text has no tokens, or there is no room for it.
        """
        room = self.room(instruction)
        copies = [self._spaced(self._copy, self._prepare(text)) for text in texts]
        pieces = self._tokenizer.encode(copies)
        return [self._assemble(copy, piece, instruction, room) for copy, piece in zip(copies, pieces, strict=True)]

    def _assemble(self, copy: str, piece: Piece, instruction: str, room: int | None) -> Rendered:
        # 1. The text's tokens, cut to the room that each copy has.
        if not piece.ids:
            raise errors.text_without_tokens(copy)
        kept = piece.ids[:room]
        dropped = len(piece.ids) - len(kept)
        # 2. The parts in their order: every copy of the text has the same ids.
        ids: list[int] = []
        shown: list[str] = []
        bounds: list[int] = []
        prefix: int | None = None
        for part, fixed in zip(self.template.parts, self._fixed, strict=True):
            start = len(ids)
            if part.slot == "text":
                prefix = start if prefix is None else prefix
                ids.extend(kept)
                shown.append(copy[: piece.ends[len(kept) - 1]] if dropped else copy)
            elif part.slot == "instruction":
                ids.extend(self._instruction(part, instruction).ids)
                shown.append(self._spaced(part, instruction) if instruction else "")
            else:
                ids.extend(fixed)
                shown.append(self._shown(part, fixed))
            if part.pooled:
                bounds += [start, len(ids)]
        # 3. The span: from where the first pooled slot begins to where the last one ends.
        if bounds[0] == bounds[-1]:
            raise errors.template_pools_nothing(self.template.source)
        return Rendered(tuple(ids), (bounds[0], bounds[-1]), prefix or 0, dropped, "".join(shown))

    def _shown(self, part: Part, fixed: tuple[int, ...]) -> str:
        if part.slot in ("bos", "eos"):
            return "".join(map(self._tokenizer.token, fixed))
        return self._spaced(part, part.content if part.slot is None else self.template.spelled[part.slot])


def _unbalanced_at(source: str) -> int:
    """Position of the first brace that has no partner; the length of the source if all have one."""
    alone = (match.start() for match in re.finditer(r"\{\{|\}\}|\{[^{}]*\}|([{}])", source) if match[1])
    return next(alone, len(source))
