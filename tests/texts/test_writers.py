"""Writing vectors: they come back bit by bit and in order, in a whole file or none."""

import errno
import json
import os
import resource
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from echoembed.errors import FileError, ModelError, TextError
from echoembed.texts import Item, JsonlWriter, Stamp, check_output, embed_stream, open_writer

STAMP = Stamp(
    model="tiny", revision="ab" * 20, recipe="echo", fingerprint="0123456789abcdef", kind="query", instruction="Find ß"
)
NAMES = ["v.npy", "v.jsonl", "v.parquet"]
BESIDE = ["v.npy", "v.npy.json", "v.npy.jsonl"]
DIMENSION = 5


def items(count: int) -> list[Item]:
    return [Item(f"id-{n}", f'text {n} "ß三🙂"\u2028 \\ and\nmore', f"line {n + 1}") for n in range(count)]


def vector(text: str) -> np.ndarray:
    """A vector of many magnitudes that the text alone decides."""
    random = np.random.default_rng(list(text.encode()))
    return (random.standard_normal(DIMENSION) * 10.0 ** random.integers(-30, 30, DIMENSION)).astype(np.float32)


def encode(texts: list[str]) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def embed(path: Path, count: int = 2500, encode=encode, overwrite: bool = False, **options) -> int:
    return embed_stream(items(count), encode, open_writer(path, STAMP, overwrite=overwrite), **options)


def read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".parquet":
        flat = pq.read_table(path)["vector"].combine_chunks()
        return flat.flatten().to_numpy().reshape(-1, flat.type.list_size)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return np.array([row["vector"] for row in rows], dtype=np.float32)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("chunk", [1, 7, 64, 1024])
@pytest.mark.parametrize("name", NAMES)
def test_vectors_come_back_bit_by_bit_in_the_order_of_their_texts(tmp_path, name, chunk):
    count = 50 if chunk == 1 else 2500
    steps: list[int] = []
    assert embed(tmp_path / name, count, chunk=chunk, progress=steps.append) == count
    expected = encode([item.text for item in items(count)])
    np.testing.assert_array_equal(read(tmp_path / name), expected)
    assert steps == sorted(set(steps))
    assert steps[-1] == count


def test_extreme_values_come_back_bit_by_bit(tmp_path):
    info = np.finfo(np.float32)
    row = np.array([info.max, info.tiny, -info.smallest_subnormal, -0.0, 1 / 3], np.float32)
    for name in NAMES:
        embed(tmp_path / name, 1, encode=lambda texts: row[None])
        assert read(tmp_path / name).tobytes() == row.tobytes()


def test_npy_is_plain_float32_with_origin_ids_and_texts_beside_it(tmp_path):
    embed(tmp_path / "v.npy", 3000)
    array = np.load(tmp_path / "v.npy", mmap_mode="r", allow_pickle=False)
    assert (array.dtype, array.shape, array.flags.c_contiguous) == (np.float32, (3000, DIMENSION), True)
    notes = json.loads((tmp_path / "v.npy.json").read_text())
    assert notes == {**STAMP._asdict(), "count": 3000, "dimension": DIMENSION}
    rows = [json.loads(line) for line in (tmp_path / "v.npy.jsonl").read_bytes().split(b"\n")[:-1]]
    assert rows == [{"id": item.id, "text": item.text} for item in items(3000)]
    assert left_in(tmp_path) == BESIDE


def test_files_of_others_beside_an_array_are_left_alone(tmp_path):
    for name in ("v.json", "v.jsonl"):
        (tmp_path / name).write_text("precious")
    embed(tmp_path / "v.npy", 3)
    embed(tmp_path / "v.npy", 4, overwrite=True)
    assert [(tmp_path / name).read_text() for name in ("v.json", "v.jsonl")] == ["precious"] * 2


@pytest.mark.parametrize("before", [(), ("v.npy",), tuple(BESIDE)])
@pytest.mark.parametrize("fails", BESIDE)
def test_the_files_of_one_output_appear_together_or_not_at_all(tmp_path, monkeypatch, before, fails):
    for name in before:
        (tmp_path / name).write_text(f"old {name}")
    replace, committed = Path.replace, []

    def on_faulty_disk(self, target):
        if target.name == fails and self.suffix == ".part":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        committed.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", on_faulty_disk)
    with pytest.raises(FileError, match="Input/output error"):
        embed(tmp_path / "v.npy", 3, overwrite=bool(before))
    assert committed or fails == BESIDE[-1]  # else the test shows nothing
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: f"old {name}" for name in before}


def test_jsonl_holds_id_text_vector_and_fingerprint(tmp_path):
    embed(tmp_path / "v.jsonl", 100)
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_bytes().split(b"\n")[:-1]]
    assert [(row["id"], row["text"]) for row in rows] == [(item.id, item.text) for item in items(100)]
    assert {tuple(row) for row in rows} == {("id", "text", "vector", "fingerprint")}
    assert {row["fingerprint"] for row in rows} == {STAMP.fingerprint}


def test_parquet_holds_lists_of_fixed_size_and_the_stamp(tmp_path, monkeypatch):
    monkeypatch.setattr("echoembed.texts.writers.GROUP_BYTES", 20_000)
    embed(tmp_path / "v.parquet", 3000)
    assert pq.ParquetFile(tmp_path / "v.parquet").num_row_groups > 1
    table = pq.read_table(tmp_path / "v.parquet")
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float not null>[5]"
    assert str(table.schema.field("fingerprint").type).startswith("dictionary<values=string")
    assert table["id"].to_pylist() == [item.id for item in items(3000)]
    assert table["text"].to_pylist() == [item.text for item in items(3000)]
    assert set(table["fingerprint"].to_pylist()) == {STAMP.fingerprint}
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata == {f"echoembed.{key}": value for key, value in STAMP._asdict().items()}


@pytest.mark.parametrize("stop", [RuntimeError("killed"), KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_where_embedding_breaks_off(tmp_path, name, stop):
    calls = []

    def breaks_off(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        if sum(calls) > 1000:
            assert any(part.endswith(".part") for part in left_in(tmp_path))  # else the test shows nothing
            raise stop
        return encode(texts)

    with pytest.raises(type(stop)):
        embed(tmp_path / name, encode=breaks_off)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_replaced_stays_whole_until_the_new_one_is(tmp_path, name):
    embed(tmp_path / name, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def breaks_off(texts: list[str]) -> np.ndarray:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        embed(tmp_path / name, 9, encode=breaks_off, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    embed(tmp_path / name, 9, overwrite=True)
    assert len(read(tmp_path / name)) == 9
    assert left_in(tmp_path) == sorted(before)


@contextmanager
def largest_file(size):
    """The system itself refuses to let a file grow further, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 10, 150, 20_000])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_a_file_error_and_leaves_nothing(tmp_path, name, room, monkeypatch):
    monkeypatch.setattr("echoembed.texts.writers.GROUP_BYTES", 10_000)
    with (
        pytest.raises(FileError, match=rf"{name}' cannot be written: File too large\. No partial file was left"),
        largest_file(room),
    ):
        embed(tmp_path / name)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_full_only_at_the_flush_is_a_file_error_too(tmp_path, name):
    with pytest.raises(FileError, match="File too large"), largest_file(100):  # less than the system's buffer
        embed(tmp_path / name, 10)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_file_is_refused_and_kept(tmp_path, name):
    for existing in BESIDE if name == "v.npy" else [name]:
        (tmp_path / existing).write_text("precious")
        with pytest.raises(FileError, match=rf"{existing}' exists already.*--overwrite"):
            check_output(tmp_path / name)
        with pytest.raises(FileError, match="exists already"):
            embed(tmp_path / name)
        assert (tmp_path / existing).read_text() == "precious"
        assert left_in(tmp_path) == [existing]
        (tmp_path / existing).unlink()


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    def encode_while_another_writes(texts: list[str]) -> np.ndarray:
        (tmp_path / "v.jsonl").write_text("precious")
        return encode(texts)

    with pytest.raises(FileError, match="exists already"):
        embed(tmp_path / "v.jsonl", encode=encode_while_another_writes)
    assert left_in(tmp_path) == ["v.jsonl"]
    assert (tmp_path / "v.jsonl").read_text() == "precious"


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path):
    with pytest.raises(FileError, match=r"does not tell a format to write\. Allowed: \.jsonl, \.npy, \.parquet"):
        check_output(tmp_path / "v.csv")
    with pytest.raises(FileError, match="its folder does not exist"):
        check_output(tmp_path / "none" / "v.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(FileError, match="it is a folder"):
        check_output(tmp_path / "folder.npy", overwrite=True)


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "is not finite"), (np.inf, "is not finite"), (0.0, "is zero")])
@pytest.mark.parametrize("name", NAMES)
def test_a_vector_that_is_no_embedding_is_refused_with_its_place(tmp_path, name, value, reason):
    def spoiled(texts: list[str]) -> np.ndarray:
        vectors = encode(texts)
        if "text 70 " in "".join(texts):
            vectors[[text.startswith("text 70 ") for text in texts]] = value
        return vectors

    with pytest.raises(ModelError, match=f"The vector of line 71 {reason}"):
        embed(tmp_path / name, encode=spoiled)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("shape", [(9, DIMENSION), (10,), (10, DIMENSION + 1)])
def test_vectors_that_do_not_fit_their_texts_are_refused(tmp_path, shape):
    def misshapen(texts: list[str]) -> np.ndarray:
        return encode(texts) if len(texts) == 64 else np.ones(shape, np.float32)

    with pytest.raises(ModelError, match=r"Got vectors of shape \(.*\)\. Allowed: \(10, 5\)"):
        embed(tmp_path / "v.npy", 74, encode=misshapen)
    assert left_in(tmp_path) == []


def test_no_texts_make_no_file(tmp_path):
    for name in NAMES:
        with pytest.raises(TextError, match="Give at least one"):
            embed(tmp_path / name, 0)
    assert left_in(tmp_path) == []


def test_the_file_has_the_rights_of_any_new_file_and_links_stay_links(tmp_path):
    (tmp_path / "plain").touch()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target.jsonl")
    embed(tmp_path / "link.jsonl", 1)
    assert (tmp_path / "link.jsonl").is_symlink()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "target.jsonl")}
    assert len(modes) == 1


def test_a_stream_gets_the_same_lines_as_a_file(tmp_path):
    embed(tmp_path / "v.jsonl", 100)
    with (tmp_path / "stream").open("wb") as handle:
        embed_stream(items(100), encode, JsonlWriter(handle, STAMP))
        assert not handle.closed
    assert (tmp_path / "stream").read_bytes() == (tmp_path / "v.jsonl").read_bytes()


def test_the_first_chunks_are_small_and_none_is_over_the_most(tmp_path):
    sizes: list[int] = []

    def counted(texts: list[str]) -> np.ndarray:
        sizes.append(len(texts))
        return encode(texts)

    embed(tmp_path / "v.npy", 1000, encode=counted, chunk=300)
    assert sizes == [64, 128, 256, 300, 252]


# Texts that only the model finds to be none.


def picky(texts: list[str]) -> np.ndarray:
    """As ``encode``; refuses a call with such texts, the longest first, as a model does."""
    for text in sorted(texts, key=len, reverse=True):
        if "text 70 " in text or "text 700 " in text:
            raise TextError("The text has no tokens. Leave it out.")
    return encode(texts)


def test_a_text_that_the_model_refuses_is_named_by_its_place(tmp_path):
    with pytest.raises(TextError, match=r"^line 71: The text has no tokens\. Leave it out\.$"):
        embed(tmp_path / "v.npy", encode=picky)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_texts_that_the_model_refuses_can_be_left_out(tmp_path, name):
    left_out: list[str] = []
    embed(tmp_path / name, encode=picky, leave_out=lambda error: left_out.append(str(error)[:9]))
    assert left_out == ["line 71: ", "line 701:"]
    kept = [item.text for item in items(2500) if item.id not in ("id-70", "id-700")]
    np.testing.assert_array_equal(read(tmp_path / name), encode(kept))


def test_an_error_that_is_no_texts_fault_stands_as_it_is(tmp_path):
    def refuses(texts: list[str]) -> np.ndarray:
        raise TextError("No slot for the instruction.")

    with pytest.raises(TextError, match=r"^No slot for the instruction\.$"):
        embed(tmp_path / "v.npy", encode=refuses, faults=lambda part: [None] * len(part), leave_out=lambda _: None)


def test_texts_that_are_all_left_out_make_no_file(tmp_path):
    def refuses(texts: list[str]) -> np.ndarray:
        raise TextError("No tokens.")

    with pytest.raises(TextError, match="only 100 that cannot be embedded"):
        embed(tmp_path / "v.npy", 100, encode=refuses, leave_out=lambda _: None)
    assert left_in(tmp_path) == []
