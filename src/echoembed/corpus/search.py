"""Searching a corpus for the texts nearest to a query: exactly or by an index, with filters, and by words as well.

Shapes: K texts found, D dimension of the vectors.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from echoembed import errors
from echoembed.corpus import folder as corpus_folder
from echoembed.corpus import index, shard
from echoembed.corpus import manifest as manifests
from echoembed.corpus.encoder import ModelEncoder, each, identity_of, shown
from echoembed.corpus.filters import condition, reason
from echoembed.corpus.manifest import SHARDS, Manifest
from echoembed.corpus.records import Value

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from echoembed.corpus.encoder import Identity

REMEDY = "Search with the model and the recipe that the corpus was built with, or build it again with these"
REFINED = 20  # candidates from the index for each text asked for; their exact cosines are then compared
FUSED = 100  # texts by vector, and texts by words, whose ranks a hybrid search fuses, however few are asked for
# A rank r counts 1 / (RANK + r). Under LanceDB's own 60, a text that is 60th in both lists is before one that is first
# in one list alone, which finds less where one list is much better than the other (docs/corpora.md).
RANK = 10
PROBED = 40  # partitions of the index that a search looks into
# Largest distance between a stored unit vector and the same text's vector computed under other numerics.
BOUND = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 6e-2, "int8": 6e-2}
STORED_BOUND = {"float32": 0.0, "float16": 1e-3, "int8": 2e-2}


# What LanceDB raises for a bad filter and for damaged files alike; it has no classes of its own.
_FAILURES = (ValueError, RuntimeError, OSError)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A text that was found.

    Attributes:
        id: The id of its row.
        score: Cosine of its vector and the query's.
        text: The text, or a chunk of a text.
        chunk: The chunk's number within the row.
        start: Position of its first character in the row's text.
        end: Position after its last character.
        kept: The kept columns.
    """

    id: str
    score: float
    text: str
    chunk: int
    start: int
    end: int
    kept: Mapping[str, Value] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return the hit as JSON can hold it, kept columns last."""
        own_fields = {name: value for name, value in vars(self).items() if name != "kept"}
        return {**own_fields, **self.kept}


class Corpus:
    """A corpus that has been built; ``open_corpus`` opens it.

    Args:
        folder: The corpus's folder.
        model: The model that embeds queries; None to load the one that the manifest names.
        exact_below: With this number of texts or more, an index proposes candidates; with fewer, a search compares with
            all texts.

    Attributes:
        manifest: The corpus's manifest, as of the last call: a corpus that is built again is searched as it is then.
        remarks: A line for each difference between the numerics of the query and the corpus; set by the first query.

    Raises:
        CorpusError: If the folder is not a corpus, or its first build has not ended.
    """

    def __init__(
        self,
        folder: str | Path,
        model: SentenceTransformer | None = None,
        *,
        exact_below: int = index.EXACT_BELOW,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self._table: Any = None
        self._changing = threading.RLock()  # held while the manifest or the table that belongs to it is replaced
        self._stamp = manifests.stamp(self.folder)
        self.manifest: Manifest = self._complete()
        self.remarks: list[str] = []
        self._given = model
        self._exact_below = exact_below

    def _complete(self) -> Manifest:
        manifest = manifests.read(self.folder)
        if manifest.state != "complete":
            raise errors.corpus_unfinished(self.folder)
        return manifest

    def _refresh(self) -> None:
        """Where a build has replaced the corpus since it was opened, go on with the new one.

        Raises:
            CorpusError: If there is no corpus any more, or its vectors cannot be compared with those before.
        """
        stamp = manifests.stamp(self.folder)  # before the manifest is read: it may be replaced in between
        if stamp == self._stamp:
            return
        now = self._complete()
        if differences := self.manifest.identity.differences(now.identity):
            raise errors.corpus_differs(self.folder, shown(differences), "Open it again")
        with self._changing:
            before, self.manifest, self._stamp = self.manifest, now, stamp
            if now != before:
                self._table = None

    def __len__(self) -> int:
        self._refresh()
        return self.manifest.rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    @cached_property
    def model(self) -> SentenceTransformer:
        """Return the model, after a check that its vectors can be compared with those of the corpus.

        Raises:
            CorpusError: If they cannot.
            ModelError: If the model cannot be loaded.
        """
        model = self._given or manifests.load_model(self.manifest)
        self._check(identity_of(model, "query"), model)
        return model

    def _check(self, identity: Identity, model: SentenceTransformer) -> None:
        """Refuse another identity; report other numerics, and check that the vectors differ no more than rounding."""
        stored = self.manifest.identity
        if differences := stored.differences(identity):
            raise errors.corpus_differs(self.folder, shown(differences), REMEDY)
        others = stored.other_numerics(identity)
        if not others:
            return
        dtypes = [dtype for side in (stored, identity) for dtype in each(side.numerics.get("dtype"))]
        allowed = max(BOUND.get(dtype, 0.0) for dtype in dtypes) + STORED_BOUND[self.manifest.precision]
        encoder = ModelEncoder(model, kind=self.manifest.kind, instruction=stored.instruction or None)  # type: ignore[arg-type]
        path = next(self.folder / SHARDS / entry.name for entry in self.manifest.shards if entry.rows)
        table = shard.read(path).slice(0, 1)
        there_D = shard.stored_of(table).unit()[0]
        distance = float(np.linalg.norm(encoder.encode(encoder.read(table.column("text").to_pylist()))[0] - there_D))
        if distance > allowed:
            differences = {**others, "the vector of its first text": ("as stored", f"{distance:.1e} from it")}
            raise errors.corpus_differs(self.folder, shown(differences), f"At most {allowed:.1e} is rounding. {REMEDY}")
        self.remarks = [
            f"{name} of the corpus is {there}, of the query {here}: scores differ in their last digits "
            f"(a stored text by {distance:.1e}, allowed {allowed:.1e})"
            for name, (there, here) in others.items()
        ]

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        where: str | None = None,
        hybrid: bool = False,
        exact: bool = False,
        instruction: str | None = None,
    ) -> list[Hit]:
        """Find the texts nearest to a query, which the recipe's query template reads.

        Args:
            query: The query.
            k: How many texts to return.
            where: A filter on the columns, in SQL: ``year > 2020 AND lang = 'en'``.
            hybrid: Whether to find texts that share rare words with the query too: the ranks by vector and by words
                are fused. The score remains the cosine.
            exact: Whether to compare with every vector even if there is an index.
            instruction: The text in place of the query template's ``{instruction}``.

        Returns:
            At most ``k`` texts, best first.

        Raises:
            TextError: If the query cannot be embedded.
            CorpusError: If the model's vectors cannot be compared with the corpus's, or the filter cannot be used.
        """
        _check_count(k)
        vector_D = self.model.encode_query([query], prompt=instruction, show_progress_bar=False)[0]
        return self.search_vector(vector_D, k, where=where, words=query if hybrid else None, exact=exact)

    def search_vector(
        self,
        vector_D: NDArray[np.float32],
        k: int = 10,
        *,
        where: str | None = None,
        words: str | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """Find the texts nearest to a vector, as ``search`` does.

        Args:
            vector_D: The vector of a query.
            k: How many texts to return.
            where: A filter on the columns.
            words: Words to search for as well; None to search by the vector only.
            exact: Whether to compare with every vector.

        Raises:
            CorpusError: If the vector, the number or the filter cannot be used.
        """
        _check_count(k)
        self._refresh()
        vector_D = self._unit(vector_D)
        asked = None if where is None else condition(where, self.columns)
        if words is not None and (not isinstance(words, str) or not words.strip()):
            raise errors.CorpusError.bad_value("words", words, "a string that is not blank, or None")
        k = min(k, max(self.manifest.rows, 1))
        try:
            rows = self._rows(vector_D, k, asked, words, exact)
        except errors.EchoembedError:
            raise
        except _FAILURES as error:
            if where is not None and self._answers(vector_D, words, exact):
                raise errors.corpus_filter(where, reason(error, asked), self.columns) from error
            # Then the index is damaged. It is made of the shards, so it is made again.
            self._table = self._opened(rebuild=True)
            try:
                rows = self._rows(vector_D, k, asked, words, exact)
            except _FAILURES as again:
                if where is None:
                    raise errors.corpus_damaged(self.folder / corpus_folder.INDEX, reason(again)) from again
                raise errors.corpus_filter(where, reason(again, asked), self.columns) from again
        return self._hits(rows, vector_D, by_cosine=words is None)[:k]

    def _unit(self, vector_D: NDArray[np.float32]) -> NDArray[np.float32]:
        allowed = f"{self.manifest.dimension} finite numbers that are not all zero"
        try:
            given_D = np.asarray(vector_D)
            if given_D.dtype.kind not in "iuf":
                raise TypeError(f"of type {given_D.dtype}")
            given_D = given_D.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise errors.CorpusError.bad_value("vector_D", vector_D, allowed) from error
        if given_D.shape != (self.manifest.dimension,):
            raise errors.CorpusError.bad_value("vector_D", f"an array of shape {given_D.shape}", allowed)
        largest = np.abs(given_D).max()
        if not (np.isfinite(largest) and largest > 0):
            raise errors.CorpusError.bad_value("vector_D", f"an array whose largest number is {largest}", allowed)
        scaled_D = given_D / largest  # else the squares of large numbers overflow
        return np.asarray(scaled_D / np.linalg.norm(scaled_D), np.float32)

    def _answers(self, vector_D: NDArray[np.float32], words: str | None, exact: bool) -> bool:
        """Whether the index answers at all, so that what failed is the filter."""
        try:
            self._rows(vector_D, 1, None, words, exact)
        except _FAILURES:
            return False
        return True

    def _rows(self, vector_D: NDArray[np.float32], k: int, where: str | None, words: str | None, exact: bool) -> Any:
        """What LanceDB finds, as an Arrow table."""
        if words is None:
            request = self.table.search(vector_D, vector_column_name="vector").distance_type("cosine")
        else:
            from lancedb.rerankers import RRFReranker

            request = self.table.search(query_type="hybrid", vector_column_name="vector")
            request = request.vector(vector_D).text(words).distance_type("cosine").rerank(RRFReranker(K=RANK))
        if exact:
            request = request.bypass_vector_index()
        elif self.manifest.rows >= self._exact_below:
            request = request.nprobes(PROBED).refine_factor(REFINED)
        if where is not None:
            request = request.where(where, prefilter=True) if words is None else request.where(where)
        # LanceDB fuses the ranks of as many texts as it is asked for; the first of them must not depend on how many.
        return request.limit(k if words is None else max(k, FUSED)).to_arrow().slice(0, k)

    @property
    def columns(self) -> list[str]:
        """Return the columns that a filter can name."""
        return ["id", "chunk", "start", "end", "text", *(kept.name for kept in self.manifest.keep)]

    def vectors(self) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield the ids and the float32 unit vectors of each shard, in order.

        Raises:
            CorpusError: If a shard is damaged.
        """
        self._refresh()
        for entry in self.manifest.shards:
            table = shard.read(self.folder / SHARDS / entry.name)
            yield table.column("id").to_pylist(), shard.stored_of(table).unit()

    @property
    def table(self) -> Any:
        """Return LanceDB's table of the corpus; build it now if there is none."""
        with self._changing:
            self._table = self._opened() if self._table is None else self._table
            return self._table

    def _opened(self, *, rebuild: bool = False) -> Any:
        """Open the table; where a build replaces the corpus meanwhile, that of the new corpus."""
        try:
            return index.open_table(self.folder, self.manifest, exact_below=self._exact_below, rebuild=rebuild)
        except errors.CorpusError:
            before = self.manifest
            self._refresh()
            if self.manifest == before:
                raise
            return self._opened(rebuild=rebuild)

    def _hits(self, rows: Any, vector_D: NDArray[np.float32], *, by_cosine: bool) -> list[Hit]:
        if not rows.num_rows:
            return []
        values_KD = np.stack(rows.column("vector").to_pylist()).astype(np.float32)
        score_K = (values_KD / np.linalg.norm(values_KD, axis=1, keepdims=True)) @ vector_D
        names = [kept.name for kept in self.manifest.keep]
        own_columns = ("id", "text", "chunk", "start", "end")
        hits = [
            Hit(
                score=float(score),
                kept={name: row[name] for name in names},
                **{name: row[name] for name in own_columns},
            )
            for score, row in zip(score_K, rows.drop_columns(["vector"]).to_pylist(), strict=True)
        ]
        return sorted(hits, key=lambda hit: -hit.score) if by_cosine else hits


def open_corpus(
    folder: str | Path, model: SentenceTransformer | None = None, *, exact_below: int = index.EXACT_BELOW
) -> Corpus:
    """Open a corpus that has been built.

    Args:
        folder: The corpus's folder.
        model: The model that embeds queries; None to load the one that the manifest names.
        exact_below: As for ``Corpus``.

    Raises:
        CorpusError: If the folder is not a corpus, or its first build has not ended.
    """
    return Corpus(folder, model, exact_below=exact_below)


def _check_count(k: object) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise errors.CorpusError.bad_value("k", k, "a whole number above 0")
