"""The rows to train on: read from files, all checked before anything else happens, and held as Arrow tables.

Files are JSONL (also gzipped), Parquet or, for the objectives that read plain texts, lines of text; a folder stands for
the files in it. A row of the contrastive objective has a ``query``, a ``positive`` (the first, if it is a list) and
hard
negatives: a ``negative`` and ``negatives``, each a string or a list, used in that order. Other keys are ignored. The
paper's training data, as its authors published it, has this form: one file of ``query``, ``positive`` and ``negative``
for each data set. The other objectives read a ``text``, else all texts of a list ``texts`` or of a contrastive row;
each text is used once.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echoembed import errors, versions
from echoembed.files import reason_of
from echoembed.prompts.text import check_text
from echoembed.texts.rows import format_of, opened, records
from echoembed.training.config import Objective, TrainConfig
from echoembed.training.start import weights_of
from echoembed.training.tables import ENDINGS, DataConfig

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

CHUNK = 10_000
EXAMPLES = 3
_COLUMNS = ("text", "texts", "query", "positive", "negative", "negatives")
_TEXT_ENDINGS = (".txt", ".txt.gz")
_NOTHING: tuple[Any, ...] = (None, [])
"""The values of a field that is not there."""

Record = tuple[str, Mapping[str, Any]]
"""A row: its place, for messages, and its keys and values."""
Texts = list[str]
"""The texts of a row, in the order of the columns."""


@dataclass
class ReadRows:
    """Counts of a data set's rows while they are read.

    Attributes:
        name: The data set's name.
        rows: Rows that can be trained on; for objectives that read plain texts, texts.
        skipped: Rows left out, as ``bad_rows = "skip"`` allows.
        unused: Plain texts left out, as they were there before, or their group is not as large as ``neighbours``.
        examples: What was wrong with the first rows left out.
    """

    name: str
    rows: int = 0
    skipped: int = 0
    unused: int = 0
    examples: list[str] = field(default_factory=list)

    def leave_out(self, error: errors.EchoembedError) -> None:
        """Count a row as left out."""
        self.skipped += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(str(error))


def unused_words(read: ReadRows) -> str:
    """Say how many plain texts of a data set are not used, if it is more than one in a hundred; else nothing."""
    if 100 * read.unused <= read.rows:
        return ""
    return (
        f"{read.unused:,} of {read.rows + read.unused:,} texts of {read.name!r} are not used: they were there before, "
        "or their group is not as large as neighbours"
    )


def read_all(config: TrainConfig, *, progress: Callable[[ReadRows], None] | None = None) -> DatasetDict:
    """Read and check every data set of a run.

    Args:
        config: The run.
        progress: Called now and then, and at the end of each data set, with the counts of its rows.

    Returns:
        The name of each of ``config.parts`` → its rows, with the columns ``query``, ``positive``, ``negative_1`` …, or
        with the single column ``text`` for objectives that read plain texts. Parts of one data set share their rows in
        memory.

    Raises:
        TrainingError: If a file or a field is missing, a row cannot be trained on, or rows do not fill a batch.
        FileError: If a file cannot be read, or a line is no JSON object.
        TextError: If a line is not UTF-8. All three errors name file and line.
    """
    with versions.needed("datasets", extra="train", purpose="Training"):
        from datasets import DatasetDict

    data_sets = [read(entry, config.objective_of(entry), progress=progress) for entry in config.data]
    for entry, rows in zip(config.data, data_sets, strict=True):
        if len(rows) < config.optimiser.batch_size:
            noun = "rows" if config.objective_of(entry) == "contrastive" else "different texts"
            raise errors.training_data_too_small(entry.name, len(rows), config.optimiser.batch_size, noun)
    # Each part needs an object of its own, as the trainer writes the part's name into it.
    return DatasetDict({part.name: _dataset(data_sets[part.source].data.table) for part in config.parts})


def read(data: DataConfig, objective: Objective, *, progress: Callable[[ReadRows], None] | None = None) -> Dataset:
    """Read and check one data set; see ``read_all``."""
    import pyarrow

    contrastive = objective == "contrastive"
    names = ["query", "positive", *(f"negative_{number + 1}" for number in range(data.negatives))]
    schema = pyarrow.schema([(name, pyarrow.large_string()) for name in (names if contrastive else ["text"])])
    counts = ReadRows(data.name)
    rows = _triplets(data, counts) if contrastive else _once(_plain_texts(data, counts), data.neighbours, counts)
    batches = []
    while chunk := list(islice(rows, CHUNK)):
        columns = [pyarrow.array(column, pyarrow.large_string()) for column in zip(*chunk, strict=True)]
        batches.append(pyarrow.record_batch(columns, schema=schema))
        counts.rows += len(chunk)
        if progress is not None:
            progress(counts)
    if not batches and not counts.skipped:
        if data.neighbours > 1 and any(True for _ in _records(data, objective)):
            raise errors.training_groups_missing(data.path, data.neighbours)
        raise errors.training_data_missing(data.path, _endings(objective))
    return _dataset(pyarrow.Table.from_batches(batches, schema))


def _dataset(table: Any) -> Dataset:
    from datasets import Dataset

    # With a random fingerprint, as the library would otherwise hash every row to make one for its cache.
    return Dataset(table, fingerprint=uuid.uuid4().hex)


def files(data: DataConfig, objective: Objective) -> list[Path]:
    """Return the files of a data set: the file it names, or the files in the folder it names, sorted by name.

    Raises:
        TrainingError: If there is no file that the objective can read.
    """
    path = Path(data.path).expanduser()
    endings = _endings(objective)
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    readable = [file for file in candidates if file.is_file() and file.name.lower().endswith(endings)]
    readable = [file for file in readable if not (path.is_dir() and file.name.startswith("."))]
    if not readable:
        raise errors.training_data_missing(data.path, endings)
    return readable


def _endings(objective: Objective) -> tuple[str, ...]:
    return tuple(ending for ending in ENDINGS if objective != "contrastive" or ending not in _TEXT_ENDINGS)


def digests(config: TrainConfig) -> dict[str, dict[str, str]]:
    """Hash the files of a run: data set → file → SHA-256 of the file's bytes in hexadecimal.

    Raises:
        TrainingError: If there is no file.
        FileError: If a file cannot be read.
    """
    hashes = {
        data.name: {file.name: _digest(file) for file in files(data, config.objective_of(data))} for data in config.data
    }
    if config.teacher.vectors:
        hashes["teacher.vectors"] = {Path(config.teacher.vectors).name: _digest(Path(config.teacher.vectors))}
    if config.adapter.start:
        hashes["adapter.start"] = {Path(config.adapter.start).name: _digest(weights_of(config.adapter))}
    return hashes


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise errors.file_unreadable(str(file), reason_of(error)) from error


def _triplets(data: DataConfig, counts: ReadRows) -> Iterator[Texts]:
    """Yield query, positive and negatives of each row."""
    for record in islice(_records(data, "contrastive"), data.rows):
        try:
            yield _triplet(record, data.negatives)
        except errors.TrainingError as error:
            if data.bad_rows == "refuse":
                raise
            counts.leave_out(error)


def _triplet(record: Record, negatives: int) -> Texts:
    where, row = record
    query = _text(where, "query", _field(record, "query"))
    positives = _field(record, "positive")
    positive = _text(where, "positive", positives[0] if isinstance(positives, list) else positives)
    hard = [*_listed(row.get("negative")), *_listed(row.get("negatives"))][:negatives]
    if len(hard) < negatives:
        raise errors.training_negatives_missing(where, len(hard), negatives)
    for number, negative in enumerate(hard, start=1):
        _text(where, f"negative {number}", negative)
        for name, other in (("positive", positive), ("query", query)):
            if negative.strip() == other.strip():
                raise errors.training_row_bad(where, f"its negative {number} is its {name}: {errors.quoted(negative)}")
    return [query, positive, *hard]


def _text(where: str, name: str, value: object) -> str:
    try:
        return check_text(value, f"its {name}")
    except errors.TextError as error:
        raise errors.training_row_bad(where, str(error)) from error


def _field(record: Record, name: str) -> Any:
    where, row = record
    if row.get(name) in _NOTHING:
        raise errors.training_row_field_missing(where, name, [key for key in row if key != name])
    return row[name]


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _plain_texts(data: DataConfig, counts: ReadRows) -> Iterator[Texts]:
    """Yield the texts of each row."""
    for record in islice(_records(data, "simcse"), data.rows):
        try:
            texts = [_text(record[0], name, text) for name, text in _texts_of(record)]
        except errors.TrainingError as error:
            if data.bad_rows == "refuse":
                raise
            counts.leave_out(error)
        else:
            yield texts


def _texts_of(record: Record) -> Iterator[tuple[str, Any]]:
    """Yield the ``text`` of a row, else its ``texts``, query, positives and negatives, each with its name."""
    where, row = record
    if row.get("text") is not None:
        yield "text", row["text"]
        return
    columns = ("texts", "query", "positive", "negative", "negatives")
    names = [name for name in columns if row.get(name) not in _NOTHING]
    if not names:
        known = [key for key in row if row[key] not in _NOTHING]
        raise errors.training_row_field_missing(where, "text", known)
    for name in names:
        yield from ((name, text) for text in _listed(row[name]))


def _once(groups: Iterator[Texts], neighbours: int, counts: ReadRows) -> Iterator[Texts]:
    """Yield each text only once, as a text that is twice in a batch would be its own negative.

    Neighbours come as whole groups: a group that is too small, or has a text that was there before, is left out, and
    its texts are counted.
    """
    seen: set[int] = set()
    for texts in groups:
        for start in range(0, len(texts), neighbours):
            group = texts[start : start + neighbours]
            keys = {hash(text) for text in group}
            if len(keys) == neighbours and not keys & seen:
                seen |= keys
                yield from ([text] for text in group)
            else:
                counts.unused += len(group)


# Files.


def _records(data: DataConfig, objective: Objective) -> Iterator[Record]:
    """Yield the rows of a data set that are not blank, each with its place."""
    for file in files(data, objective):
        kind = format_of(file.name) or "jsonl"
        needed = ("query", "positive") if objective == "contrastive" else ()
        check = partial(_check_columns, needed) if kind == "parquet" else lambda known, where: None
        with opened(file) as handle:
            for where, record in records(kind, handle, str(file), _COLUMNS, check):
                for value in (record, *(record.values() if isinstance(record, Mapping) else ())):
                    if isinstance(value, errors.TextError):
                        raise value
                blank = kind == "txt" and isinstance(record, Mapping) and not str(record["text"]).strip()
                if isinstance(record, Mapping) and not blank:
                    yield where, record


def _check_columns(needed: Sequence[str], known: Sequence[str], where: str) -> None:
    """Refuse a Parquet file that lacks a column which every row needs; of others, only the known columns are read."""
    if not set(known) & set(_COLUMNS):
        raise errors.training_row_field_missing(where, needed[0] if needed else "text", known)
    for name in needed:
        if name not in known:
            raise errors.training_row_field_missing(where, name, known)
