"""Embedding the texts of one shard: each text once, in slices; texts that cannot be embedded are rejected.

Shapes: N rows of a shard, D dimension of their vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from echoembed import errors
from echoembed.corpus.encoder import Encoder, Prompt, mixed
from echoembed.corpus.records import PLACE, Record
from echoembed.corpus.shard import EmbeddedRecords, Precision, Stored

SLICE = 512
UNIT_TOLERANCE = 1e-4


Fault = Callable[[str], errors.EchoembedError]
"""Makes the error of a text that cannot be embedded, given its place; another row with the text has another place."""


class Known(NamedTuple):
    """A vector as a shard stores it.

    Attributes:
        values_D: The vector.
        scale: The factor of its numbers.
        dropped: The number of tokens that were cut off its text.
        numerics: How it was computed.
        old: Whether the corpus had it before this build.
    """

    values_D: NDArray[Any]
    scale: float
    dropped: int
    numerics: Mapping[str, object]
    old: bool = False


def embed_records(
    encoder: Encoder,
    records: Sequence[Record],
    known: Mapping[bytes, Known],
    *,
    precision: Precision,
    numerics: Mapping[str, object],
    refuse_cut: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> EmbeddedRecords:
    """Embed the records of a shard.

    Args:
        encoder: The model.
        records: The records of the shard, in order. Equal texts share a vector.
        known: Vectors that exist already and are copied, by the hash of their text.
        precision: The precision in which vectors are stored.
        numerics: How the model computes vectors.
        refuse_cut: Whether a text over the budget is rejected rather than cut.
        progress: Called after each slice with the number of texts embedded.

    Returns:
        The records that have a vector, and those that were rejected, each with its reason.

    Raises:
        EchoembedError: If all texts of a slice fail with the same message, so that the fault is not in the texts. That
            all are over the budget is no such fault.
    """
    # 1. Find the texts that have no vector yet, each once.
    texts = {record.hash: record for record in reversed(records)}
    new = [record.hash for record in records]
    new = [hash_ for hash_ in dict.fromkeys(new) if hash_ not in known]
    # 2. Embed them in slices that depend only on the shard's texts, so that a shard made again has the same bytes.
    vectors = dict(known)
    faults: dict[bytes, Fault] = {}
    for start in range(0, len(new), SLICE):
        part = new[start : start + SLICE]
        now, failed = _slice(encoder, [texts[hash_] for hash_ in part], precision, numerics, refuse_cut)
        alike = {(type(error), str(error)) for error in (fault(PLACE) for fault in failed.values())}
        if len(part) > 1 and not now and len(alike) == 1 and errors.OverBudgetError not in dict(alike):
            raise failed[part[0]](texts[part[0]].where)
        vectors |= now
        faults |= failed
        progress(len(now))
    # 3. Put the vectors into the order of the records, and reject the texts without a vector.
    good = [record for record in records if record.hash not in faults]
    rows = [vectors[record.hash] for record in good]
    dtype = np.dtype(precision)
    values_ND = np.stack([row.values_D for row in rows]) if rows else np.empty((0, encoder.dimension), dtype)
    stored = Stored(values_ND, np.array([row.scale for row in rows], np.float32))
    return EmbeddedRecords(
        good,
        stored,
        [row.dropped for row in rows],
        [(row, str(faults[record.hash](PLACE))) for row, record in enumerate(records) if record.hash in faults],
        mixed(row.numerics for row in rows) if rows else numerics,
        sum(hash_ not in faults for hash_ in new),
    )


def _slice(
    encoder: Encoder,
    records: list[Record],
    precision: Precision,
    numerics: Mapping[str, object],
    refuse_cut: bool,
) -> tuple[dict[bytes, Known], dict[bytes, Fault]]:
    """Return the vectors of the records, and the fault of each record that has none."""
    vectors: dict[bytes, Known] = {}
    failed: dict[bytes, Fault] = {}
    prompts: dict[bytes, Prompt] = {}

    def read(record: Record, prompt: Prompt) -> None:
        if prompt.dropped and refuse_cut:
            failed[record.hash] = partial(errors.corpus_text_too_long, dropped=prompt.dropped, room=encoder.room() or 0)
        else:
            prompts[record.hash] = prompt

    def keep(record: Record, vector_D: NDArray[np.float32]) -> None:
        length = float(np.linalg.norm(vector_D.astype(np.float64)))
        if not np.isfinite(length) or length == 0:
            reason = "is zero" if length == 0 else "is not finite"
            failed[record.hash] = partial(errors.corpus_vector_unusable, reason=reason)
            return
        unit_D = vector_D if abs(length - 1) < UNIT_TOLERANCE else (vector_D / length).astype(np.float32)
        stored = Stored.of(unit_D[None], precision)
        scale, dropped = float(stored.scale_N[0]), prompts[record.hash].dropped
        vectors[record.hash] = Known(stored.values_ND[0], scale, dropped, numerics)

    def fail(record: Record, error: errors.EchoembedError) -> None:
        failed[record.hash] = partial(errors.text_unusable, reason=str(error))

    def encoded(part: Sequence[Record]) -> NDArray[np.float32]:
        vectors_ND = encoder.encode([prompts[record.hash] for record in part])
        if vectors_ND.shape != (len(part), encoder.dimension):
            raise errors.vectors_misshapen(f"({len(part)}, {encoder.dimension})", vectors_ND.shape)
        return np.ascontiguousarray(vectors_ND, dtype=np.float32)

    _each(records, lambda part: encoder.read([record.text for record in part]), read, fail)
    _each([record for record in records if record.hash in prompts], encoded, keep, fail)
    return vectors, failed


def _each(
    records: Sequence[Record],
    ask: Callable[[Sequence[Record]], Sequence[Any] | NDArray[Any]],
    take: Callable[[Record, Any], None],
    fail: Callable[[Record, errors.EchoembedError], None],
) -> None:
    """Call ``ask`` with all records; if it fails, with each half, so that a few calls find every record that fails."""
    if not records:
        return
    try:
        answers = ask(records)
    except (errors.TextError, errors.ModelError) as error:
        if len(records) == 1:
            fail(records[0], error)
            return
        half = len(records) // 2
        _each(records[:half], ask, take, fail)
        _each(records[half:], ask, take, fail)
        return
    for record, answer in zip(records, answers, strict=True):
        take(record, answer)
