"""Building a corpus: one pass over the inputs, a shard for each group of texts, and the manifest last.

After a kill, the next build continues with the shard where the killed build stopped: it reads the inputs again, but
embeds no text again. A shard is looked up by the key of its rows, and is used if its bytes have the hash in its name.
So continuing a build, repairing a corpus and updating it for changed inputs are all the same pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from echoembed import errors
from echoembed.corpus import folder as corpus_folder
from echoembed.corpus import manifest as manifests
from echoembed.corpus import shard
from echoembed.corpus.before import Before
from echoembed.corpus.chunks import DEFAULT_TOKENS, Chunker
from echoembed.corpus.embed import Known
from echoembed.corpus.encoder import Encoder, mixed
from echoembed.corpus.groups import Group, Groups, Reading
from echoembed.corpus.inputs import Inputs
from echoembed.corpus.manifest import SHARDS, Manifest
from echoembed.corpus.pool import Pool
from echoembed.corpus.records import Rejected, key_of
from echoembed.corpus.scratch import Places, Seen, Wheres
from echoembed.corpus.shard import Entry, Precision
from echoembed.corpus.work import BuildProgress, Engine, Here, Report, ShardTask, ShardWork
from echoembed.files import WholeFile, reason_of


def build(
    inputs: Sequence[str | Path],
    out: str | Path,
    encoder: Encoder,
    *,
    file_format: str | None = None,
    reading: Reading | None = None,
    precision: Precision = "float32",
    refuse_cut: bool = False,
    kind: str = "document",
    load: Mapping[str, object] | None = None,
    engine: Engine | None = None,
    progress: Callable[[BuildProgress], None] = lambda _: None,
) -> Report:
    """Build a corpus, continue a build, repair a corpus, or update it for changed inputs.

    Args:
        inputs: Files (JSONL, CSV, TSV, also as .gz and .zst; Parquet; Markdown, text) and folders of these.
        out: The folder of the corpus.
        encoder: The model, such as ``ModelEncoder(echoembed.load())``.
        file_format: Format of all files that are named, whatever their suffixes; None to go by the suffix.
        reading: Columns, chunks, and size of the shards.
        precision: How vectors are stored: ``float32``, ``float16`` or ``int8``.
        refuse_cut: Whether a text over the budget is rejected rather than cut.
        kind: The template that ``encoder`` uses; stored in the manifest.
        load: Arguments of ``echoembed.load`` that load the model again; stored in the manifest.
        engine: Makes the shards; None for this process.
        progress: Called after every few hundred texts.

    Returns:
        A report. ``rejected.jsonl`` has a line with the reason for each row that was rejected.

    Raises:
        CorpusError: If the folder's vectors have another identity, the folder holds something else, or no text can be
            embedded.
        FileError: If an input is missing, or the disk is full. Finished shards stay, and the same call continues.
    """
    if precision not in shard.PRECISIONS:
        raise errors.CorpusError.bad_value("--precision", precision, ", ".join(shard.PRECISIONS))
    target = Path(out).expanduser()
    files = Inputs(inputs, file_format=file_format, leave_out=target)
    (reading or Reading()).check(files)
    manifest = Manifest(
        state="building",
        identity=encoder.identity(),
        precision=precision,
        dimension=encoder.dimension,
        keep=(reading or Reading()).keep,
        kind=kind,
        load=load,
        inputs=files.names(),
    )
    work = ShardWork(
        folder=target / SHARDS,
        reading=reading or Reading(),
        precision=precision,
        dimension=encoder.dimension,
        refuse_cut=refuse_cut,
        about={"format": manifests.FORMAT, "identity": manifest.identity.as_dict(), "precision": precision},
    )
    chunker = _chunker(encoder, work)
    corpus_folder.prepare(target)
    with corpus_folder.locked(target):
        start = time.perf_counter()
        report = _Job(target, files, work, manifest, engine or Here(encoder), progress).run(chunker)
        report.seconds = time.perf_counter() - start
    return report


@dataclass
class _Job:
    folder: Path
    inputs: Inputs
    work: ShardWork
    manifest: Manifest
    engine: Engine
    progress: Callable[[BuildProgress], None]
    embedded: int = 0
    reused: int = 0
    done: int = 0
    kept: int = 0
    empty: bool = False

    def run(self, chunker: Chunker) -> Report:
        # 1. Look at the folder, and check that its vectors can be compared with ours.
        before = Before(self.folder, self.manifest.identity, self.work.precision)
        corpus_folder.clear(self.folder, keep=None)
        if before.manifest is None or before.manifest.state == "building":
            manifests.write(self.folder, self.manifest)
        # 2. Read the inputs in one pass: keep the shards that exist, and make the others.
        with ExitStack() as stack:
            stack.callback(self._leave_nothing)
            rejected = stack.enter_context(WholeFile(self.folder / corpus_folder.REJECTED, overwrite=True))
            set_aside = _Lines(rejected)
            seen = stack.enter_context(Seen(self.folder / ".ids"))
            places = stack.enter_context(Places(self.folder / ".places"))
            wheres = stack.enter_context(Wheres(self.folder / ".wheres"))
            groups = Groups(self.inputs, self.work.reading, chunker, seen, set_aside)
            entries = self._shards(groups, before, places, wheres)
            if not sum(entry.rows for entry in entries):
                first = next(self._rejected(entries, wheres), None)
                reason = groups.first_reason or (first.reason if first else groups.nothing())
                if before.manifest is None:
                    corpus_folder.clear(self.folder, keep=())
                    self.empty = True
                raise errors.corpus_no_rows(reason)
            # 3. Copy the rejections of each shard to rejected.jsonl. Write the manifest last, when all else is there.
            for rejection in self._rejected(entries, wheres):
                set_aside(rejection)
            rejected.seal()
            rejected.commit()
            # Of vectors that were copied, the numerics are those under which they were computed, not ours.
            ways = [shard.numerics_of(self._path(entry)) for entry in entries if entry.rows]
            identity = replace(self.manifest.identity, numerics=mixed(ways))
            whole = replace(
                self.manifest, state="complete", identity=identity, shards=entries, rejected=set_aside.lines
            )
            manifests.write(self.folder, whole)
        corpus_folder.clear(self.folder, keep=[entry.name for entry in entries])
        made = len(entries) - self.kept
        return Report(whole, self.embedded, self.reused, self.kept, made, self.inputs.ignored, before.remarks)

    def _leave_nothing(self) -> None:
        if self.empty:
            corpus_folder.undo(self.folder)

    def _path(self, entry: Entry) -> Path:
        return self.work.folder / entry.name

    def _rejected(self, entries: Sequence[Entry], wheres: Wheres) -> Iterator[Rejected]:
        """Yield the texts that the model could not embed, each with its present place."""
        for entry in entries:
            if entry.rejected:
                for row, reason in shard.rejections_of(self._path(entry)):
                    yield Rejected.at(wheres.of(entry.number, row), reason)

    def _shards(self, groups: Groups, before: Before, places: Places, wheres: Wheres) -> list[Entry]:
        """Keep or make the shards of all groups, and return their entries in order."""
        entries: dict[int, Entry] = {}
        pool = Pool(places)
        old_added = False
        total = self.inputs.total_bytes()

        def tell(count: int) -> None:
            self.embedded += count
            read = max(groups.bytes_read, 1)
            self.progress(BuildProgress(self.embedded, self.done, round(self.done * max(total, read) / read)))

        for group in groups:
            key = self._key(group)
            self.done += len(group.records)
            entry = before.present(group.number, key)
            if entry is None:
                if not old_added and before.has_changed(group.number, key):  # any text may have its vector already
                    for path in before.usable():
                        pool.add(path, old=True)
                    old_added = True
                known = self._usable(pool.find([record.hash for record in group.records]))
                self.reused += sum(record.hash in known and known[record.hash].old for record in group.records)
                entry = self.engine.submit(ShardTask(group.number, key, group.records, known), self.work, tell)
                was_there = False
            else:
                self.kept += 1
                self.reused += entry.rows
                tell(0)
                was_there = True
            wheres.add(group.number, self._asked(group, entry))
            if entry is not None:  # texts that return in later shards are copied from this one
                entries[group.number] = entry
                pool.add(self._path(entry), old=was_there)
        entries |= {entry.number: entry for entry in self.engine.finish(self.work, tell)}
        return [entries[number] for number in sorted(entries)]

    def _usable(self, known: dict[bytes, Known]) -> dict[bytes, Known]:
        """Leave out vectors of texts that were cut, if such texts are to be rejected."""
        return {hash_: one for hash_, one in known.items() if not (self.work.refuse_cut and one.dropped)}

    def _asked(self, group: Group, entry: Entry | None) -> dict[int, str]:
        """Return the places of the rejected records; of all records, if the shard is not made yet."""
        if entry is None:
            return {row: record.where for row, record in enumerate(group.records)}
        rejections = shard.rejections_of(self._path(entry)) if entry.rejected else []
        return {row: group.records[row].where for row, _ in rejections}

    def _key(self, group: Group) -> str:
        identity, work = self.manifest.identity, self.work
        decides = repr(sorted(identity.as_dict()["decides"].items()))
        how = (work.precision, work.reading.keep, work.refuse_cut)
        settings = (manifests.FORMAT, shard.LAYOUT, *how, decides, identity.instruction)
        return key_of(group.records, map(repr, settings))


def _chunker(encoder: Encoder, work: ShardWork) -> Chunker:
    room = encoder.room()
    tokens = work.reading.chunk_tokens or min(DEFAULT_TOKENS, room or DEFAULT_TOKENS)
    if room is not None and tokens > room:
        allowed = f"at most {room}, the limit for a text"
        raise errors.CorpusError.bad_value("--chunk-tokens", tokens, allowed)
    return Chunker(count=encoder.tokens, tokens=tokens)


class _Lines:
    """Writes the lines of ``rejected.jsonl``."""

    def __init__(self, file: WholeFile) -> None:
        self._file = file
        self.lines = 0

    def __call__(self, rejected: Rejected) -> None:
        try:
            self._file.handle.write(rejected.line())
        except OSError as error:
            raise errors.output_unwritable(self._file.path, reason_of(error)) from error
        self.lines += 1
