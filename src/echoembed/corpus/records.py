"""Records between the inputs and the shards: a text to embed, or a rejection with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import NamedTuple

from echoembed import errors

HASH_BYTES = 16
RESERVED = ("id", "chunk", "start", "end", "text", "text_hash", "vector", "scale", "dropped_tokens", "score")
LANCE = ("_rowid", "_rowaddr", "_rowoffset", "_score", "_distance", "_relevance_score", "_row_hash")
"""Columns that the index adds to what it finds."""
EXACT = 2.0**53  # from here on, a float skips whole numbers
TYPES = ("text", "int", "float", "bool")
PLACE = "<place>"
"""Stands for a row's place in a reason that a shard stores: the row may have another place when the shard is kept."""
Value = str | int | float | bool | None


class Keep(NamedTuple):
    """A further column that the shards store, and the type of its values."""

    name: str
    type: str = "text"

    @classmethod
    def parse(cls, written: str) -> Keep:
        """Read an option such as ``year:int`` or ``title``.

        Raises:
            CorpusError: If the type is unknown, or as ``checked``.
        """
        name, _, type_ = written.partition(":")
        if type_ not in ("", *TYPES):
            raise errors.CorpusError.bad_value(
                "--keep", written, f"NAME or NAME:TYPE, with TYPE one of {', '.join(TYPES)}"
            )
        return cls(name, type_ or "text").checked()

    def checked(self) -> Keep:
        """The column itself, if shards and index can hold one of its name.

        Raises:
            CorpusError: If they cannot: the name is taken, or LanceDB refuses it.
        """
        if self.name.lower() in (*RESERVED, *LANCE) or not self.name.strip():
            taken = RESERVED if self.name.lower() not in LANCE else LANCE
            raise errors.CorpusError.bad_value("--keep", self.name, f"a column other than {', '.join(taken)}")
        if not set(self.name).isdisjoint(".`"):  # the index has no such names
            raise errors.CorpusError.bad_value("--keep", self.name, "a name without '.' and '`': rename the column")
        if self.type not in TYPES:
            raise errors.CorpusError.bad_value("--keep", self.type, f"a type of {', '.join(TYPES)}")
        return self

    def read(self, value: object, where: str) -> Value:
        """Convert a value to the column's type; None stays None.

        Raises:
            FileError: If the value cannot be converted.
        """
        if value is None or (value == "" and self.type != "text"):
            return None
        try:
            if self.type == "text":
                if isinstance(value, bytes):
                    raise ValueError("bytes, which are no text")
                in_json = isinstance(value, (bool, int, float, list, dict))
                text = json.dumps(value, ensure_ascii=False, default=str) if in_json else str(value)
                text.encode()  # fails for a lone surrogate, which cannot be stored
                return text
            if self.type == "bool":
                words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
                return words[str(value).strip().lower()]
            text = str(value)
            number = float(text)
            if not math.isfinite(number) or "_" in text:  # Python takes 1_000 for a number
                raise ValueError("no number that JSON has")
            if self.type == "float":
                return number
            if isinstance(value, float) and abs(value) >= EXACT:
                raise ValueError("perhaps not the number that was written")
            exact = Decimal(text)
            # Tables with gaps have their whole numbers as 3.0.
            whole = int(exact) if isinstance(value, float) or "." in text else int(text)
            if whole != exact or not -(2**63) <= whole < 2**63:
                raise ValueError("not whole, or over 64 bits")
            return whole
        except (ValueError, KeyError) as error:
            raise errors.corpus_bad_column(where, self.name, value, self.type) from error


class Record(NamedTuple):
    """A text to embed.

    Attributes:
        id: The id of its row.
        text: The text, which ``echoembed.check_text`` has accepted.
        where: Its place, for messages.
        kept: The values of the kept columns, in their order.
        chunk: Number of the chunk within the row, from 0.
        start: Position of the chunk's first character in the row's text.
        end: Position after the chunk's last character.
        hash: BLAKE2b of the text in UTF-8.
    """

    id: str
    text: str
    where: str
    kept: tuple[Value, ...]
    chunk: int
    start: int
    end: int
    hash: bytes

    @classmethod
    def of(
        cls, id_: str, text: str, where: str, kept: tuple[Value, ...] = (), chunk: int = 0, start: int = 0
    ) -> Record:
        """Make the record of a text, or of a chunk."""
        digest = blake2b(text.encode(), digest_size=HASH_BYTES).digest()
        return cls(id_, text, where, kept, chunk, start, start + len(text), digest)


class Rejected(NamedTuple):
    """A row or text that could not be embedded, and why; a line of ``rejected.jsonl``."""

    where: str
    reason: str

    @classmethod
    def at(cls, where: str, reason: str) -> Rejected:
        """Make the rejection of a row that is at this place now, of the reason that a shard stores."""
        return cls(where, reason.replace(PLACE, where, 1))

    def line(self) -> bytes:
        """Return the line of JSON; lone surrogates are escaped."""
        safe = {key: str(value).encode("utf-8", "backslashreplace").decode() for key, value in self._asdict().items()}
        return (json.dumps(safe, ensure_ascii=False) + "\n").encode()


def key_of(records: Sequence[Record], settings: Iterable[str]) -> str:
    """Hash all that decides the bytes of a shard into 16 hexadecimal digits."""
    digest = blake2b("\n".join(settings).encode(), digest_size=8)
    for record in records:
        about = (record.id, record.chunk, record.start, record.end, record.kept)
        digest.update(json.dumps(about, ensure_ascii=False).encode())
        digest.update(record.hash)
    return digest.hexdigest()
