"""Files and folders that are whole or absent, whoever else writes or was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from echoembed.errors import FileError
from echoembed.files import WholeFile, commit, whole_file, whole_folder, write_text

posix = pytest.mark.skipif(os.name != "posix", reason="needs locks on files")
WRITER = """
    import signal, sys
    from echoembed.files import WholeFile, whole_folder

    if sys.argv[2] == "file":
        file = WholeFile(sys.argv[1])
        file.handle.write(b"half")
        file.handle.flush()
        print("writing", flush=True)
        signal.pause()
    with whole_folder(sys.argv[1]) as folder:
        (folder / "a").write_text("half")
        print("writing", flush=True)
        signal.pause()
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that is writing a target."""
    started = []

    def start(kind: str) -> subprocess.Popen[str]:
        args = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "target"), kind]
        process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "writing\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def write(kind: str, target: Path, content: str, *, overwrite: bool = False, then: Callable[[], None] = int) -> None:
    """Write a file or a folder whole, and do something before it gets its name."""
    if kind == "file":
        with whole_file(target, overwrite=overwrite) as handle:
            handle.write(content.encode())
            then()
    else:
        with whole_folder(target, overwrite=overwrite) as folder:
            (folder / "a").write_text(content)
            then()


def read(kind: str, target: Path) -> str:
    return (target if kind == "file" else target / "a").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@posix
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_run_left_is_cleared_by_the_next_with_the_same_target(tmp_path, writer, kind):
    process = writer(kind)
    process.kill()
    process.wait()
    assert len(names(tmp_path)) == 1  # else the test shows nothing
    write(kind, tmp_path / "other", "whole")
    assert len(names(tmp_path)) == 2  # of another target
    write(kind, tmp_path / "target", "whole")
    assert names(tmp_path) == ["other", "target"]


@posix
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_living_run_writes_is_left_alone(tmp_path, writer, kind):
    writer(kind)
    [part] = names(tmp_path)
    write(kind, tmp_path / "target", "whole")
    assert names(tmp_path) == sorted([part, "target"])
    assert read(kind, tmp_path / "target") == "whole"


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize(
    ("name", "reason"), [("v" * 300, "File name too long"), ("v\0", "null"), ("n" * 300 + "/v", "File name too long")]
)
def test_a_name_that_nothing_can_have_is_refused(tmp_path, kind, name, reason):
    with pytest.raises(FileError, match=f"cannot be written: .*{reason}") as caught:
        write(kind, tmp_path / name, "whole")
    assert len(str(caught.value).splitlines()) == 1
    assert names(tmp_path) == []


@posix
def test_a_leftover_that_is_none_of_ours_is_left_alone(tmp_path):
    for name in (".target.part", ".target.0123456.part", ".target.0123456789.part", ".target.json.01234567.part"):
        (tmp_path / name).write_text("precious")
    before = names(tmp_path)
    write("file", tmp_path / "target", "whole")
    assert names(tmp_path) == sorted([*before, "target"])


@posix
def test_a_folder_that_was_moved_aside_when_the_run_was_killed_comes_back(tmp_path):
    (tmp_path / ".target.0123abcd.before").mkdir()
    (tmp_path / ".target.0123abcd.before" / "a").write_text("old")
    with pytest.raises(FileError, match="exists already"):
        write("folder", tmp_path / "target", "new", then=lambda: None)
    assert names(tmp_path) == ["target"]
    assert read("folder", tmp_path / "target") == "old"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_two_runs_with_one_target_the_second_is_refused_and_the_first_whole(tmp_path, kind):
    target = tmp_path / "target"
    if kind == "file":
        first, second = WholeFile(target), WholeFile(target)
        for file, content in ((first, b"first"), (second, b"second")):
            file.handle.write(content)
        first.seal()
        second.seal()  # both have found the name free
        with first:
            first.commit()
        with second, pytest.raises(FileError, match="exists already"):
            second.commit()
        assert target.read_text() == "first"
    else:
        with pytest.raises(FileError, match="exists already"):
            write(kind, target, "second", then=lambda: write(kind, target, "first"))
        assert read(kind, target) == "first"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, kind):
    target = tmp_path / "target"
    write(kind, target, "old")
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):

        def fails(error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            write(kind, target, "new", overwrite=True, then=fails)
        assert read(kind, target) == "old"
        assert names(tmp_path) == ["target"]
    with pytest.raises(FileError, match="exists already"):
        write(kind, target, "new")
    write(kind, target, "new", overwrite=True)
    assert (read(kind, target), names(tmp_path)) == ("new", ["target"])


def test_files_that_belong_together_appear_together(tmp_path):
    first, second = WholeFile(tmp_path / "a"), WholeFile(tmp_path / "b")
    with first, second:
        for file in (first, second):
            file.handle.write(b"new")
            file.seal()
        (tmp_path / "b").write_text("of another")
        with pytest.raises(FileError, match="exists already"):
            commit([first, second])
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["b"]


def test_a_text_is_replaced_whole_and_its_folders_are_made(tmp_path):
    for text in ("old ß", "new 三"):
        write_text(tmp_path / "a" / "b" / "text", text)
        assert (tmp_path / "a" / "b" / "text").read_text(encoding="utf-8") == text
    assert names(tmp_path / "a" / "b") == ["text"]
