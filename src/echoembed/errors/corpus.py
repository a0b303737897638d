"""Corpora: folders of vectors that are built, resumed and searched."""

from __future__ import annotations

import re
from collections.abc import Iterable

from echoembed.errors.base import CorpusError, FileError, ModelError, near, quoted
from echoembed.errors.texts import OverBudgetError


def corpus_missing(path: object) -> CorpusError:
    """A folder that should be a corpus and is none."""
    return CorpusError(
        f"{quoted(str(path), 200)} is not a corpus: it has no manifest and no shards. Make one with "
        "'echoembed corpus build INPUT --out FOLDER'."
    )


def corpus_foreign_folder(path: object, name: str) -> CorpusError:
    """A target for a corpus that holds something else."""
    return CorpusError(
        f"{quoted(str(path), 200)} holds {quoted(name, 200)}, which is no part of a corpus. Allowed: a new or empty "
        "folder, or a corpus. Choose another --out."
    )


class CorpusVersionError(CorpusError):
    """A corpus that another version wrote; it is not damaged."""


def corpus_foreign_version(path: object, got: object, known: int) -> CorpusVersionError:
    """A corpus that another version wrote."""
    return CorpusVersionError(
        f"{quoted(str(path), 200)} is a corpus of format {quoted(got)}. This version reads format {known}. "
        "Use the version of echoembed that wrote it, or build into another folder."
    )


def corpus_busy(path: object) -> CorpusError:
    """A folder that another job works on."""
    return CorpusError(
        f"{quoted(str(path), 200)} is in use by another job. Only one may write to a corpus: wait for it, or "
        "choose another --out."
    )


def corpus_differs(path: object, differences: str, remedy: str) -> CorpusError:
    """Vectors that must not be mixed or compared, with the differences between the corpus and this call."""
    return CorpusError(f"{quoted(str(path), 200)} was made with other settings: {differences}. {remedy}.")


def corpus_unfinished(path: object) -> CorpusError:
    """A corpus whose first build has not ended."""
    return CorpusError(
        f"{quoted(str(path), 200)} is not complete: its first build was interrupted, or still runs. Wait for it, or "
        "run the same 'echoembed corpus build' again: it resumes where it stopped."
    )


def corpus_damaged(path: object, reason: str) -> CorpusError:
    """A part of a corpus that is missing or has changed since it was written."""
    return CorpusError(
        f"{quoted(str(path), 200)} is damaged: {reason}. Run the same 'echoembed corpus build' again: it repairs what "
        "is damaged and keeps the rest."
    )


def corpus_no_rows(reason: str) -> CorpusError:
    """Inputs without any text that can be embedded; the corpus does not change."""
    return CorpusError(
        f"No text of the input can be embedded: {reason.removesuffix('.')}. Nothing was changed. Give at least one."
    )


def corpus_text_too_long(where: str, dropped: int, room: int) -> OverBudgetError:
    """A text over the budget, where such texts are set aside."""
    return OverBudgetError(
        f"{where} is {dropped:,} tokens over the limit of {room:,} for a text. Shorten it, split texts with --chunk "
        "(chunk=True), or allow it to be cut with --on-overflow cut (refuse_cut=False)."
    )


def corpus_vector_unusable(where: str, reason: str) -> ModelError:
    """A vector that is not finite, or zero; its text is set aside."""
    return ModelError(
        f"The vector of {where} {reason}: a vector must be finite and not zero. Try --dtype float32, or leave the text "
        "out."
    )


def corpus_option_unused(option: str, needs: str) -> CorpusError:
    """An option that none of the inputs can use."""
    return CorpusError(f"Got {option}, which none of the inputs can use: it is for {needs}. Leave it out.")


def corpus_stdin() -> FileError:
    """Standard input, which cannot be read twice."""
    return FileError(
        "A corpus cannot be built from standard input: a job that resumes must read its input again. Give a file."
    )


def corpus_bad_column(where: str, column: str, value: object, type_: str) -> FileError:
    """A cell that does not have the requested type."""
    remedy = "leave the column out" if type_ == "text" else f"keep the column as text: --keep {column}"
    return FileError(
        f"{where} has {quoted(value)} in the column {quoted(column)}, which cannot be read as {type_}. Correct it, or "
        f"{remedy}."
    )


def corpus_file_changed(name: str) -> FileError:
    """An input that was written to while it was read."""
    return FileError(f"{quoted(name, 200)} changed while it was read. Build again when nothing writes to it.")


def corpus_filter(filter_: object, reason: str, columns: Iterable[str]) -> CorpusError:
    """A filter of a search that cannot be used."""
    names = list(columns)
    start = re.match(r"\W?(\w+)", str(filter_))
    hint = near(start[1], names) if start and start[1] not in names else ""
    return CorpusError(
        f"The filter {quoted(filter_, 200)} cannot be used: {reason.removesuffix('.')}. Columns: {', '.join(names)}. "
        f'Write it as in SQL, such as "year > 2020".{hint}'
    )


def corpus_input_inside(name: str, folder: object) -> CorpusError:
    """An input that is the corpus itself, or a part of it, which the build would replace while it reads it."""
    return CorpusError(
        f"The input {quoted(name, 200)} lies in {quoted(str(folder), 200)}, the corpus that is to be built. Allowed: "
        "inputs outside of it. Choose another --out."
    )


def corpus_index_unwritable(folder: object, reason: str) -> FileError:
    """A corpus without a search index of its present texts, in a folder in which none can be built."""
    return FileError(
        f"{quoted(str(folder), 200)} has no search index of its present texts, and none can be built there: {reason}. "
        "Run a search as a user who may write there, or copy the corpus to a folder in which you can write."
    )


def corpus_input_missing(name: str) -> FileError:
    """An input that does not exist."""
    return FileError(f"There is no {quoted(name, 200)}. Give files and folders that exist.")


def export_impossible(recipe: str, option: str, reason: str) -> ModelError:
    """A recipe that a loader without our package cannot follow."""
    further = {"--stock": ", pooling the prompt's last token", "--gguf": ", on weights as they were loaded"}
    allowed = "causal recipes at the last layer" + further.get(option, "")
    return ModelError(
        f"The recipe {quoted(recipe)} cannot be exported with {option}: {reason.rstrip('.')}. Allowed: {allowed}. "
        "Use --self-contained, which carries our code along."
    )


def remote_states(url: str, reason: str) -> ModelError:
    """A server that does not return the states of a model's tokens."""
    return ModelError(
        f"The server {quoted(url, 200)} cannot be used: {reason.rstrip('.')}. Give one that serves the last layer's "
        "state of every token of this very model, as llama-server does with --embedding --pooling none."
    )
