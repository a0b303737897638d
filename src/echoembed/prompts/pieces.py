"""Tokenising one piece of a prompt exactly, as if it stood in the middle of the joined text.

Tokenizers treat the beginning of a text specially: SentencePiece models put a blank in front of it, which would appear
in front of every piece. ``PieceTokenizer`` removes that rule and remembers it. So the ids of all pieces, one after
another, are the ids of the joined text, except where a merge would cross the border of two pieces. User text never
gives a special token, as only our own code adds these, by id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Encoding, Tokenizer

from echoembed import errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def no_panic() -> Iterator[None]:
    """Turn a panic of the tokenizer into our own error, as ``except Exception`` does not catch panics.

    Raises:
        ModelError: If the tokenizer panicked, or raised a plain ``Exception``: it has no errors of its own.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and not _is_panic(error):
            raise
        raise errors.tokenizer_broken(str(error)) from error


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


@dataclass(frozen=True, slots=True)
class Piece:
    """The token ids of one piece, and for each token the character offset in the piece at which it ends."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]


class PieceTokenizer:
    """A tokenizer without its special treatment of a text's beginning and end.

    Attributes:
        leading_blank: When the original puts a blank in front of a whole text: ``"never"``, ``"always"``, or only if
            the text has none (``"missing"``). The renderer adds this blank to the first piece.
        bos: The id of the token that begins a text (BOS, else CLS); None if there is none.
        eos: The id of the token that ends a text (EOS, else SEP); None if there is none.

    Raises:
        ModelError: If the tokenizer has no ``tokenizers`` backend.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise errors.tokenizer_unsupported(type(tokenizer).__name__)
        # 1. Copy the tokenizer without its rules for whole texts: leading blank, dropout of merges, padding, cutting.
        with no_panic():
            description = json.loads(backend.to_str())
            description["model"].pop("dropout", None)  # of merges, for training: a text would get other ids each time
            self.leading_blank, self._inner_blank, self._blanks = _take_leading_blank(description)
            _normalize_added(description, backend)
            self._tokenizer = Tokenizer.from_str(json.dumps(description))
        try:
            self._encoding("a b")
        except errors.TextError as error:  # a tokenizer that fails on plain ASCII is broken
            raise errors.tokenizer_broken(str(error.__cause__)) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # text that spells </s> stays text
        # 2. Find the special tokens, which only our own code may add.
        self.bos = _first_id(tokenizer.bos_token_id, tokenizer.cls_token_id)
        self.eos = _first_id(tokenizer.eos_token_id, tokenizer.sep_token_id)
        self._added = {token.content: id_ for id_, token in backend.get_added_tokens_decoder().items()}
        named = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        marked = {id_ for id_, token in backend.get_added_tokens_decoder().items() if token.special}
        unknown = {tokenizer.unk_token_id} - {self.bos, self.eos, tokenizer.pad_token_id}
        special = (named | marked | {self.bos, self.eos}) - unknown
        self.special_ids = frozenset(id_ for id_ in special if id_ is not None)
        self._special_strings = sorted(
            (token for token in map(self._tokenizer.id_to_token, self.special_ids) if token),
            key=len,
            reverse=True,
        )
        # 3. Check that added tokens which are not special are found as the original tokenizer finds them.
        ordinary = {id_: token for id_, token in backend.get_added_tokens_decoder().items() if not token.special}
        whole_words = self.leading_blank == "always"  # the normaliser adds its blank before it looks for added tokens
        self._splitting = frozenset(id_ for id_, token in ordinary.items() if not (whole_words and token.normalized))
        with no_panic():
            self._check_added(
                [token.content for id_, token in ordinary.items() if id_ not in self.special_ids], backend
            )

    def _check_added(self, tokens: list[str], backend: Tokenizer) -> None:
        """Check that added tokens are found in texts where the original finds them."""
        dropout = getattr(backend.model, "dropout", None)
        if backend.truncation or backend.padding or dropout:
            backend = Tokenizer.from_str(backend.to_str())
            backend.no_truncation()
            backend.no_padding()
            if dropout:
                backend.model.dropout = None
        for token in tokens[:_MOST_PROBED]:
            for text in (token, f"a {token} b", f"a{token}b", f"a {token}b", f" {token} {token}"):
                with_blank = " " + text if self.begins_with_blank(text) else text
                expected = backend.encode(text, add_special_tokens=False).ids
                if self.special_ids.isdisjoint(expected) and list(self.encode([with_blank])[0].ids) != expected:
                    raise errors.tokenizer_added_token(token)

    def begins_with_blank(self, text: str) -> bool:
        """Return whether the original puts a blank in front of a text; not if the text begins with an added token."""
        if self.leading_blank == "never" or (self.leading_blank == "missing" and self._has_blank(text)):
            return False
        return not self._splitting or next(iter(self._encoding(text).ids), None) not in self._splitting

    def _has_blank(self, text: str) -> bool:
        """Return whether a text, once normalised, begins with a blank."""
        normalizer, beginning = self._tokenizer.normalizer, text[:_BEGINNING]
        return (normalizer.normalize_str(beginning) if normalizer else beginning).startswith(self._blanks)

    def _encoding(self, text: str) -> Encoding:
        return self._encodings([text])[0]

    def _encodings(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode texts together or, if the tokenizer fails, one by one, as it does not say on which text it failed.

        Raises:
            TextError: If the tokenizer fails on a text.
        """
        try:
            return list(self._tokenizer.encode_batch(list(texts), add_special_tokens=False))
        except BaseException as error:
            if type(error) is not Exception and not _is_panic(error):  # the library raises plain ``Exception``
                raise
            if len(texts) == 1:
                raise errors.text_breaks_tokenizer(texts[0], str(error)) from error
        return [self._encoding(text) for text in texts]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set this switch again, as copies and worker processes get the tokenizer as JSON, which leaves it out."""
        self.__dict__.update(state)
        self._tokenizer.encode_special_tokens = True

    def backend(self) -> Tokenizer:
        """A copy of the tokenizer as pieces see it, with nothing put around a text."""
        return Tokenizer.from_str(self._tokenizer.to_str())

    def token(self, id_: int) -> str:
        """Return the token of an id, as the vocabulary spells it."""
        return str(self._tokenizer.id_to_token(id_))

    def special_in(self, literal: str) -> str | None:
        """Return a special token that ``literal`` spells, if it spells any."""
        return next((token for token in self._special_strings if token in literal), None)

    def marker(self, content: str, before: str = "", *, written: bool = False) -> tuple[int, ...]:
        """Return the ids of a template's marker: of the added token that it spells, else of the string as a piece.

        Args:
            content: The string of the marker.
            before: The blank in front of it.
            written: Whether the template itself has that blank. An added token gets no blank from the tokenizer.
        """
        if content in self._added:
            return (*self.encode([before if written else ""])[0].ids, self._added[content])
        return self.encode([before + content])[0].ids

    def encode(self, pieces: Sequence[str]) -> list[Piece]:
        """Tokenise pieces, each by itself, without special tokens.

        Raises:
            TextError: If a piece cannot be tokenised without a special token, or the tokenizer fails on it.
        """
        return [self._checked(text, encoding) for text, encoding in zip(pieces, self._encodings(pieces), strict=True)]

    def _checked(self, text: str, encoding: Encoding) -> Piece:
        if self._inner_blank != "never" and not self._splitting.isdisjoint(encoding.ids):
            return self._around_added(text, encoding)
        return self._without_special(text, encoding)

    def _around_added(self, text: str, encoding: Encoding) -> Piece:
        """Tokenise text with added tokens; the original also puts its blank in front of the text after such a token."""
        ids: list[int] = []
        ends: list[int] = []
        added = [
            (start, stop, id_)
            for id_, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
            if id_ in self._splitting
        ]
        at = 0
        for start, stop, id_ in [*added, (len(text), len(text), None)]:
            between = text[at:start]
            blank = at > 0 and between and (self._inner_blank == "always" or not self._has_blank(between))
            if between:
                spaced = " " * bool(blank) + between
                piece = self._without_special(spaced, self._encoding(spaced))
                ids.extend(piece.ids)
                ends.extend(at + max(0, end - bool(blank)) for end in piece.ends)
            if id_ is not None:
                ids.append(id_)
                ends.append(stop)
            at = stop
        return Piece(tuple(ids), tuple(ends))

    def _without_special(self, text: str, encoding: Encoding) -> Piece:
        if self.special_ids.isdisjoint(encoding.ids):
            return Piece(tuple(encoding.ids), tuple(end for _, end in encoding.offsets))
        # Unigram vocabularies have "<s>" as an ordinary entry. Cut such a word in two, and tokenise both parts.
        ids: list[int] = []
        ends: list[int] = []
        start = 0
        for stop in (*self._cuts(text), len(text)):
            part = self._encoding(text[start:stop])
            ids.extend(part.ids)
            ends.extend(start + end for _, end in part.offsets)
            start = stop
        if not self.special_ids.isdisjoint(ids):
            raise errors.text_spells_special(text)
        return Piece(tuple(ids), tuple(ends))

    def _cuts(self, text: str) -> list[int]:
        cuts = set()
        for token in self._special_strings:
            at = text.find(token)
            while at >= 0:
                cuts.add(at + 1)
                at = text.find(token, at + 1)
        return sorted(cuts)


def _first_id(*ids: int | None) -> int | None:
    return next((id_ for id_ in ids if id_ is not None), None)


_MOST_PROBED = 200
_BEGINNING = 20  # characters of a text that are normalised to see whether it begins with a blank
LeadingBlank = Literal["never", "always", "missing"]


def _normalize_added(description: dict[str, Any], backend: Tokenizer) -> None:
    """Normalise added tokens, in place, with the original normaliser, so that they are found.

    The library looks for a token with ``normalized`` set in the normalised text, and normalises the token too. Where
    the original normaliser puts a blank in front of a text, such a token has one.
    """
    if backend.normalizer is None:
        return
    for token in description.get("added_tokens", []):
        if token["normalized"] and not token["special"]:
            token["content"] = backend.normalizer.normalize_str(token["content"])


def _take_leading_blank(description: dict[str, Any]) -> tuple[LeadingBlank, LeadingBlank, tuple[str, ...]]:
    """Remove, in place, the steps that put a blank in front of a text.

    Returns:
        When they put it in front of a text, when after an added token, and which characters count as a blank.
    """
    leading: LeadingBlank = "never"
    inner: LeadingBlank = "never"
    blanks: tuple[str, ...] = (" ",)
    normalizer = description.get("normalizer")
    if normalizer is not None:
        steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
        # Strip goes too, as it would remove the blank at the beginning of a piece.
        others = [step for step in steps if step["type"] not in ("Prepend", "Strip")]
        if any(step["type"] == "Prepend" for step in steps):
            leading = inner = "always"
        if len(others) < len(steps):
            description["normalizer"] = {"type": "Sequence", "normalizers": others} if others else None
    pre_tokenizer = description.get("pre_tokenizer")
    if pre_tokenizer is not None:
        for step in _continuous_steps(pre_tokenizer):
            first_only = step.get("prepend_scheme") == "first"
            if _drop_prefix(step):
                leading, inner = "missing", inner if first_only else "missing"
                if step["type"] == "Metaspace":  # it replaces blanks before it looks for one
                    blanks = (" ", step["replacement"])
    return leading, inner, blanks


def _continuous_steps(pre_tokenizer: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield the steps before the first split on blanks, after which each word has its own prefix."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    for step in steps:
        if step["type"] in {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}:
            return
        yield step


def _drop_prefix(step: dict[str, Any]) -> bool:
    if step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never":
        step["prepend_scheme"] = "never"
        return True
    if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
        step["add_prefix_space"] = False
        return True
    return False
