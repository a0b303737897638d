"""Texts that cannot be read and vectors that cannot be written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from echoembed.errors.base import FileError, ModelError, TextError, near, quoted


def file_missing(name: str) -> FileError:
    """An input that looks like a file and does not exist."""
    return FileError(
        f"There is no file {quoted(name, 200)}. Give the path of one; if these are words to embed, give them as --text."
    )


def file_unreadable(name: str, reason: str) -> FileError:
    """An input that exists and cannot be read."""
    return FileError(f"{quoted(name, 200)} cannot be read: {reason}. Check that it is whole, and that you may read it.")


def format_untold(name: str, allowed: Iterable[str], remedy: str) -> FileError:
    """An input whose name does not tell its format."""
    return FileError(f"The name {quoted(name, 200)} does not tell a format. Allowed: {', '.join(allowed)}. {remedy}.")


def format_needs_file(format_: str) -> FileError:
    """A format that cannot be read from a stream."""
    return FileError(f"Standard input cannot be read as {format_}, whose index is at its end. Give a file.")


def line_too_long(where: str, limit: int) -> FileError:
    """A line that is too long to be one text."""
    return FileError(
        f"{where} is longer than {limit:,} bytes. A line holds one text: give a text file with line breaks."
    )


def text_not_utf8(where: str, byte: int, value: int) -> TextError:
    """Bytes that are no text; ``byte`` counts from 1 within the line."""
    return TextError(
        f"{where} is not UTF-8: byte {byte} is 0x{value:02X}. Convert the file (iconv -f latin1 -t utf-8), or leave "
        "the line out."
    )


def file_encoding(name: str, what: str, codec: str) -> FileError:
    """A file in an encoding that is not supported; ``codec`` is iconv's name for it."""
    return FileError(
        f"{quoted(name, 200)} is {what}. Texts must be UTF-8, or UTF-16 or UTF-32 with a byte order mark. Convert the "
        f"file (iconv -f {codec} -t utf-8)."
    )


def file_compressed(name: str, how: str) -> FileError:
    """A file that is compressed, and whose name does not say so."""
    return FileError(
        f"{quoted(name, 200)} is compressed by {how}, and its name does not say so. Give what is in it, as from "
        f"'{how} -dc'."
    )


def text_file_returns(where: str) -> FileError:
    """A line of text with a carriage return in it, as old line ends have."""
    return FileError(
        f"{where} has a carriage return (CR) without a line feed. Lines must end in LF or CRLF: convert the file "
        "(tr '\\r' '\\n'), or give texts with carriage returns as JSONL."
    )


def json_malformed(where: str, reason: str) -> FileError:
    """A line of a JSONL file that is no JSON object."""
    return FileError(f'{where} is no JSON object: {reason}. Write one on every line, such as {{"text": "…"}}.')


def csv_malformed(where: str, reason: str) -> FileError:
    """A CSV record that does not parse."""
    if reason.startswith("new-line character seen in unquoted field"):  # Python's words for a lone CR
        return FileError(
            f"{where} has a carriage return (CR) without a line feed. Lines must end in LF or CRLF: convert the file, "
            "or quote the cell."
        )
    return FileError(f"{where} is no CSV record: {reason}. Quote cells that hold commas, quotes or line breaks.")


def csv_other_delimiter(name: str, other: str, used: str) -> FileError:
    """A table whose columns are separated by another character."""
    shown = "tab" if other == "\t" else other
    return FileError(
        f"{name} seems to be separated by {other!r}, not by {used!r}: add --delimiter {shown!r}. If it is not, say "
        f"--delimiter {'tab' if used == chr(9) else used!r}."
    )


def delimiter_bad(value: object) -> FileError:
    """A delimiter that cannot separate columns."""
    return FileError(
        f"Got delimiter {quoted(value)}. Allowed: one character that is neither a quote nor a line break, or tab. "
        "Choose what stands between the columns."
    )


def delimiter_unused(name: str, kind: str) -> FileError:
    """A delimiter for an input without columns."""
    return FileError(
        f"Got a delimiter, and {quoted(name, 200)} is read as {kind}, which has none. Leave --delimiter out, or say "
        "--format csv."
    )


def column_unused(name: str, column: str, kind: str) -> FileError:
    """A column of the text, for inputs without columns."""
    return FileError(
        f"Got column {quoted(column)}, and {quoted(name, 200)} is read as {kind}, which has none. Leave --column out, "
        "or say --format csv."
    )


def column_missing(where: str, column: str, known: Iterable[str]) -> FileError:
    """A requested column that does not exist."""
    names = list(known)
    shown = ", ".join(quoted(name) for name in names[:12]) + (", …" if len(names) > 12 else "")
    return FileError(
        f"{where} has no column {quoted(column)}. It has: {shown or 'none'}. Choose with --column and --id-column."
        f"{near(column, names)}"
    )


def column_twice(where: str, column: str) -> FileError:
    """A name that two columns have."""
    return FileError(f"{where} has two columns named {quoted(column)}. Names must differ: rename one.")


def cell_unreadable(where: str, reason: str) -> TextError:
    """A cell of a Parquet file whose value Python cannot hold."""
    return TextError(f"{where} has a value that cannot be read: {reason.rstrip('.')}. Correct it, or leave it out.")


def id_unusable(where: str, value: object) -> FileError:
    """An id that is neither a word nor a whole number."""
    return FileError(
        f"{where} has the id {quoted(value)}. Allowed: a string that is not blank, or a whole number. Correct it, or "
        "leave out --id-column to number the texts."
    )


def id_twice(id_: str, where: str, first: str) -> FileError:
    """An id that two texts have."""
    return FileError(
        f"{where} has the id {quoted(id_)}, as {first} has. Ids must differ: correct them, or leave out --id-column."
    )


class OverBudgetError(TextError):
    """A text over the budget, if such texts are refused; ``--on-bad-text skip`` does not leave it out."""


def text_unusable(where: str, reason: str) -> TextError:
    """A text that the model cannot embed, with its place."""
    return TextError(f"{where}: {reason.removesuffix('.')}.")


def text_too_long(where: str, dropped: int, room: int) -> OverBudgetError:
    """A text over the budget, with its place."""
    return OverBudgetError(
        f"{where} is {dropped:,} tokens over the limit of {room:,} for a text. Shorten it, raise the budget, or "
        "allow it to be cut with overflow='warn' (--on-overflow warn)."
    )


def no_texts(names: Iterable[str], skipped: int = 0) -> TextError:
    """Inputs without any text."""
    only = f", only {skipped:,} that cannot be embedded" if skipped else ""
    return TextError(f"There is no text in {', '.join(names) or 'the input'}{only}. Give at least one.")


def too_many_texts(limit: int) -> TextError:
    """More texts than a comparison of all pairs can show."""
    return TextError(f"Got more than {limit} texts. Every pair is shown: give at most {limit}, or use 'embed'.")


def too_few_texts(count: int) -> TextError:
    """Fewer texts than a comparison needs."""
    return TextError(f"Got {count} text. A comparison takes at least 2: give another.")


def output_unknown(path: object, allowed: Iterable[str]) -> FileError:
    """An output whose name does not tell its format."""
    return FileError(
        f"The name {quoted(str(path), 200)} does not tell a format to write. Allowed: {', '.join(allowed)}. Rename it."
        f"{near(PurePath(str(path)).suffix, allowed)}"
    )


def output_exists(path: object) -> FileError:
    """An output that would replace a file."""
    return FileError(
        f"{quoted(str(path), 200)} exists already. Choose another name, or allow it with --overwrite (overwrite=True)."
    )


def output_not_ours(path: object, what: str) -> FileError:
    """A folder to write that would replace something else than a saved model."""
    return FileError(
        f"{quoted(str(path), 200)} is {what}. Only a folder in which echoembed saved a model, or an empty one, is "
        "replaced. Choose another name, or remove it yourself."
    )


def output_not_results(path: object) -> FileError:
    """A page of results that would replace another file."""
    return FileError(
        f"{quoted(str(path), 200)} exists, and is not a page of results. Choose another name, or remove it yourself."
    )


def output_is_input(path: object, name: str) -> FileError:
    """An output that is also an input, by whatever name."""
    return FileError(
        f"{quoted(str(path), 200)} is the input {quoted(name, 200)}, which would be lost. Choose another name for the "
        "output."
    )


def output_unwritable(path: object, reason: str) -> FileError:
    """An output that cannot be written; its unfinished file has been removed."""
    return FileError(
        f"{quoted(str(path), 200)} cannot be written: {reason}. No partial file was left. Choose a folder that "
        "exists, has room and lets you write."
    )


def result_unwritable(reason: str) -> FileError:
    """Standard output that cannot be written, of a command that writes its result nowhere else."""
    return FileError(
        f"Standard output cannot be written: {reason}. What was printed is not complete; files that were written are "
        "kept. Send the output to a file on a disk with room."
    )


def stream_unwritable(reason: str) -> FileError:
    """Standard output that cannot be written, of a command that could write a file."""
    return FileError(
        f"Standard output cannot be written: {reason}. The output so far is not complete. Write a file with --output, "
        "which appears whole or not at all."
    )


def vector_unusable(where: str, reason: str) -> ModelError:
    """A vector that is not finite, or zero."""
    return ModelError(
        f"The vector of {where} {reason}. Nothing was written: a vector must be finite and not zero. Try "
        "--dtype float32, or another model."
    )


def vectors_misshapen(wanted: str, got: tuple[int, ...]) -> ModelError:
    """An array of vectors that does not fit its texts."""
    return ModelError(f"Got vectors of shape {got}. Allowed: {wanted}. Encode to one array with a row for each text.")
