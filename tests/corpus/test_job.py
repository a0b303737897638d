"""A build embeds what is new, copies what is there, keeps what is right, and names what is damaged."""

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from echoembed import errors
from echoembed.corpus import Keep, Reading, build, shard
from echoembed.corpus import folder as place
from echoembed.corpus import manifest as notes
from echoembed.files import WholeFile
from fake_encoder import CUT_AT, FakeEncoder

READING = Reading(id="id", shard_rows=4)


def write_rows(path, texts):
    """JSONL with the ids a, b, c …"""
    rows = [{"id": id_, "text": text} for id_, text in texts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(out):
    """All rows of a corpus, in order, from its shards alone."""
    names = [entry.name for entry in notes.read(out).shards]
    return [row for name in names for row in pq.read_table(out / "shards" / name).to_pylist()]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, {f"r{number}": f"text number {number}" for number in range(10)})
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def contents(out):
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


def test_every_text_has_the_vector_of_its_own(source, out):
    report = build([source], out, FakeEncoder(), reading=READING)
    rows = rows_of(out)
    assert [row["id"] for row in rows] == [f"r{number}" for number in range(10)]
    for row in rows:
        np.testing.assert_array_equal(row["vector"], FakeEncoder().vector(row["text"]))
    assert (report.embedded, report.made_shards, report.manifest.rows) == (10, 3, 10)


@pytest.mark.parametrize(("precision", "bound"), [("float32", 0), ("float16", 1e-3), ("int8", 2e-2)])
def test_vectors_read_back_are_unit_float32_near_what_was_embedded(source, out, precision, bound):
    build([source], out, FakeEncoder(), reading=READING, precision=precision)
    for entry in notes.read(out).shards:
        table = shard.read(out / "shards" / entry.name)
        unit_ND = shard.stored_of(table).unit()
        assert unit_ND.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(unit_ND, axis=1), 1, atol=1e-6)
        wanted_ND = np.stack([FakeEncoder().vector(text) for text in table.column("text").to_pylist()])
        assert np.linalg.norm(unit_ND - wanted_ND, axis=1).max() <= bound


def test_vectors_that_are_not_unit_are_made_so(source, out):
    encoder = FakeEncoder()
    encoder.vector = lambda text: 3 * FakeEncoder().vector(text)
    build([source], out, encoder, reading=READING)
    np.testing.assert_allclose(np.linalg.norm([row["vector"] for row in rows_of(out)], axis=1), 1, atol=1e-6)


def test_a_second_build_embeds_nothing_and_changes_no_byte(source, out):
    build([source], out, FakeEncoder(), reading=READING)
    before = contents(out)
    again = FakeEncoder()
    report = build([source], out, again, reading=READING)
    assert again.texts == []
    assert (report.kept_shards, report.made_shards, report.remarks) == (3, 0, [])
    assert contents(out) == before


def test_a_changed_corpus_embeds_only_what_changed_and_what_is_gone_goes(source, out):
    build([source], out, FakeEncoder(), reading=READING)
    texts = {f"r{number}": f"text number {number}" for number in range(1, 10)}  # the first is gone: every shard moves
    write_rows(source, {**texts, "r5": "edited", "new": "a new one"})
    again = FakeEncoder()
    build([source], out, again, reading=READING)
    assert sorted(again.texts) == ["a new one", "edited"]
    rows = {row["id"]: row for row in rows_of(out)}
    assert list(rows) == [*texts, "new"]
    for row in rows.values():
        np.testing.assert_array_equal(row["vector"], FakeEncoder().vector(row["text"]))
    assert len(list((out / "shards").iterdir())) == len(notes.read(out).shards)


def test_a_changed_corpus_is_the_one_that_a_first_build_would_make(source, out, tmp_path):
    build([source], out, FakeEncoder(), reading=READING)
    write_rows(source, {f"r{number}": f"text number {number % 7}" for number in range(3, 20)})
    build([source], out, FakeEncoder(), reading=READING)
    build([source], tmp_path / "fresh", FakeEncoder(), reading=READING)
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_text_that_stands_twice_in_a_shard_is_embedded_once(source, out):
    write_rows(source, {"a": "same", "b": "same", "c": "other"})
    encoder = FakeEncoder()
    build([source], out, encoder, reading=READING)
    assert encoder.texts == ["same", "other"]
    assert len(rows_of(out)) == 3


def test_a_text_that_returns_in_later_shards_is_embedded_once(source, out):
    texts = [f"text {number % 10}" for number in range(40)]
    write_rows(source, {f"r{row}": text for row, text in enumerate(texts)})
    encoder = FakeEncoder()
    report = build([source], out, encoder, reading=Reading(id="id", shard_rows=4))
    assert sorted(encoder.texts) == sorted(set(texts))
    assert (report.embedded, report.reused, report.repeated, report.made_shards) == (10, 0, 30, 10)
    for path in sorted((out / "shards").iterdir())[3:5]:  # a shard that is made again copies them, too
        path.unlink()
    again = FakeEncoder()
    build([source], out, again, reading=Reading(id="id", shard_rows=4))
    assert again.texts == []
    rows = [row for path in sorted((out / "shards").iterdir()) for row in pq.read_table(path).to_pylist()]
    assert [row["text"] for row in rows] == texts
    for row in rows:
        np.testing.assert_array_equal(row["vector"], encoder.vector(row["text"]))


def test_what_is_cut_is_counted_text_by_text(source, out):
    write_rows(source, {"a": "word " * (CUT_AT + 5), "b": "short"})
    report = build([source], out, FakeEncoder(), reading=READING)
    assert [row["dropped_tokens"] for row in rows_of(out)] == [5, 0]
    assert (report.manifest.shards[0].dropped_texts, report.manifest.shards[0].dropped_tokens) == (1, 5)


def test_kept_columns_keep_value_and_type(tmp_path, out):
    source = tmp_path / "rows.csv"
    source.write_text("text,year,share,open,title\none,2020,0.5,true,A\ntwo,,,,\n")
    keep = tuple(map(Keep.parse, ["year:int", "share:float", "open:bool", "title"]))
    build([source], out, FakeEncoder(), reading=Reading(keep=keep))
    rows = [{name: row[name] for name in ("id", "year", "share", "open", "title")} for row in rows_of(out)]
    assert rows == [
        {"id": "rows.csv:2", "year": 2020, "share": 0.5, "open": True, "title": "A"},
        {"id": "rows.csv:3", "year": None, "share": None, "open": None, "title": ""},
    ]


def test_chunks_fit_the_budget_and_their_offsets_give_them_back(tmp_path, out):
    text = "# Title\n\n" + "Ünïcode sentences stand here, one after another. " * 30 + "\n\nLast paragraph. 終わり。"
    (tmp_path / "note.md").write_text(text)
    build([tmp_path / "note.md"], out, FakeEncoder(), reading=Reading(chunk_tokens=20))
    rows = rows_of(out)
    assert len(rows) > 5
    assert [row["chunk"] for row in rows] == list(range(len(rows)))
    assert {row["id"] for row in rows} == {"note.md"}
    for row in rows:
        assert text[row["start"] : row["end"]] == row["text"]
        assert FakeEncoder().tokens(row["text"]) <= 20
        assert row["dropped_tokens"] == 0
    between = [text[one["end"] : other["start"]] for one, other in itertools.pairwise(rows)]
    assert not "".join(between).strip()  # nothing but blanks is left out


def test_a_row_is_chunked_only_when_asked(source, out, tmp_path):
    write_rows(source, {"a": "Some words are here. " * 10})
    build([source], out, FakeEncoder(), reading=READING)
    assert len(rows_of(out)) == 1
    build([source], tmp_path / "chunked", FakeEncoder(), reading=Reading(id="id", chunk=True, chunk_tokens=10))
    assert len(rows_of(tmp_path / "chunked")) > 3


# Damage.


def damaged(source, out):
    """A corpus with a byte of its second shard flipped, and what it was before."""
    build([source], out, FakeEncoder(), reading=READING)
    before = contents(out)
    path = sorted((out / "shards").iterdir())[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return before, path


def test_a_flipped_byte_is_named_and_that_shard_alone_made_again(source, out):
    before, path = damaged(source, out)
    again = FakeEncoder()
    report = build([source], out, again, reading=READING)
    assert again.texts == [f"text number {number}" for number in range(4, 8)]
    assert report.remarks == [f"shards/{path.name} was damaged: it has been made again"]
    assert contents(out) == before


def test_a_missing_shard_is_named_and_made_again(source, out):
    before, path = damaged(source, out)
    path.unlink()
    again = FakeEncoder()
    report = build([source], out, again, reading=READING)
    assert (len(again.texts), len(report.remarks)) == (4, 1)
    assert path.name in report.remarks[0]
    assert contents(out) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', None])
def test_a_manifest_that_is_damaged_is_named_and_comes_back_from_its_backup(source, out, content):
    build([source], out, FakeEncoder(), reading=READING)
    before = contents(out)
    (out / "manifest.json").unlink() if content is None else (out / "manifest.json").write_bytes(content)
    assert notes.read(out).rows == 10  # who searches notices nothing
    again = FakeEncoder()
    report = build([source], out, again, reading=READING)
    assert again.texts == []
    assert "manifest.json was" in report.remarks[0]
    assert contents(out) == before


def test_without_manifest_and_backup_the_shards_are_still_found(source, out):
    build([source], out, FakeEncoder(), reading=READING)
    before = contents(out)
    for name in ("manifest.json", "manifest.backup.json"):
        (out / name).write_bytes(b"")
    again = FakeEncoder()
    report = build([source], out, again, reading=READING)
    assert again.texts == []
    assert "rebuilt from 3 shards" in report.remarks[0]
    assert contents(out) == before


def test_without_manifests_another_identity_is_still_refused(source, out):
    build([source], out, FakeEncoder(), reading=READING)
    for name in ("manifest.json", "manifest.backup.json"):
        (out / name).unlink()
    with pytest.raises(errors.CorpusError, match="recipe_fingerprint"):
        build([source], out, FakeEncoder(recipe="classical"), reading=READING)


# Refusals.


@pytest.mark.parametrize(
    ("other", "precision", "named"),
    [
        ({"recipe": "classical"}, "float32", "recipe_fingerprint is 'echo' in the corpus and 'classical' here"),
        ({"revision": "1" * 40}, "float32", "revision is '0000"),
        ({"dimension": 4}, "float32", "dimension is 8 in the corpus and 4 here"),
        ({}, "int8", "precision is 'float32' in the corpus and 'int8' here"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_going_on_otherwise_is_refused_with_the_difference(source, out, other, precision, named, finished):
    build([source], out, FakeEncoder(), reading=READING)
    if not finished:
        whole = notes.read(out)
        notes.write(out, notes.Manifest(**{**vars(whole), "state": "building", "shards": ()}))
    before = contents(out)
    with pytest.raises(errors.CorpusError) as caught:
        build([source], out, FakeEncoder(**other), reading=READING, precision=precision)
    assert named in str(caught.value)
    assert contents(out) == before


def test_other_numerics_are_named_and_go_on(source, out):
    build([source], out, FakeEncoder(), reading=READING)
    report = build([source], out, FakeEncoder(dtype="bfloat16"), reading=READING)
    assert report.remarks == ["dtype was float32 and is bfloat16 now: new vectors differ in their last digits"]


def test_two_jobs_on_one_folder_are_told_apart(source, out):
    with place.locked(Path(out.mkdir() or out)), pytest.raises(errors.CorpusError, match="another job"):
        build([source], out, FakeEncoder(), reading=READING)
    build([source], out, FakeEncoder(), reading=READING)


def test_a_job_of_another_process_holds_the_folder(source, out):
    code = f"""
import sys
from pathlib import Path
from echoembed.corpus import folder
Path({str(out)!r}).mkdir()
with folder.locked(Path({str(out)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(errors.CorpusError, match="another job"):
            build([source], out, FakeEncoder(), reading=READING)
        other.kill()
    build([source], out, FakeEncoder(), reading=READING)


def test_a_full_disk_leaves_what_is_finished_and_the_next_build_goes_on(source, out, monkeypatch, tmp_path):
    build([source], tmp_path / "calm", FakeEncoder(), reading=READING)
    seal, calls = WholeFile.seal, []

    def full(self):
        if self.path.parent.name == "shards":
            calls.append(self.path)
            if len(calls) == 3:
                raise errors.output_unwritable(self.path, os.strerror(errno.ENOSPC))
        seal(self)

    monkeypatch.setattr(WholeFile, "seal", full)
    with pytest.raises(errors.FileError, match="No space left"):
        build([source], out, FakeEncoder(), reading=READING)
    monkeypatch.undo()
    assert len(list((out / "shards").iterdir())) == 2  # and no part of a third
    again = FakeEncoder()
    build([source], out, again, reading=READING)
    assert again.texts == ["text number 8", "text number 9"]
    assert contents(out) == contents(tmp_path / "calm")


def test_a_system_that_takes_no_more_bytes_is_one_line(source, out):
    """The system itself refuses large files, as a full disk would."""
    write_rows(source, {f"r{number}": f"text number {number} " * 50 for number in range(200)})
    code = f"""
import resource, signal
from echoembed import errors
from echoembed.corpus import Reading, build
from fake_encoder import FakeEncoder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
try:
    build([{str(source)!r}], {str(out)!r}, FakeEncoder(dimension=64), reading=Reading(id="id", shard_rows=100))
except errors.FileError as error:
    print(error)
"""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.count("\n") == 1
    assert "cannot be written" in done.stdout
    assert not list(out.rglob("*.part"))


def test_a_model_that_fails_at_every_text_stops_the_job(source, out):
    encoder = FakeEncoder()

    def broken(texts):
        raise errors.TextError("The template leaves no room for any text.")

    encoder.encode = broken
    with pytest.raises(errors.TextError, match="leaves no room"):
        build([source], out, encoder, reading=READING)


def test_progress_counts_up_to_what_there_is(source, out):
    seen = []
    build([source], out, FakeEncoder(), reading=READING, progress=seen.append)
    assert [step.embedded for step in seen] == sorted(step.embedded for step in seen)
    assert (seen[-1].embedded, seen[-1].done, seen[-1].expected) == (10, 10, 10)
