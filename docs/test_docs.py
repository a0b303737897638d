"""Run what README.md and docs/*.md show: Python blocks, and commands with the output printed under them.

- ``python`` blocks of a page run in order in one namespace; a ``text`` block right after one is its output.
- In ``console`` blocks each line that begins with ``$ `` runs in a folder with the examples; what follows up to
  the next command is its output, on stdout and stderr.
- In shown output ``...`` stands for anything. Blocks in other languages are not run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import command_help

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def matches(shown: str, real: str) -> bool:
    """Whether the real output is the one shown, blanks at line ends and tokens ``...`` aside."""
    pattern = re.escape(squeeze(shown)).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, squeeze(real), re.DOTALL) is not None


def squeeze(text: str) -> str:
    """The text with runs of blanks made one, line by line."""
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def commands(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output shown under it."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples, from which commands run as a user would run them."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(1800)  # pages score a real model
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_does_what_it_shows(page: Path, workplace: Path) -> None:
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    namespace: dict[str, object] = {"__name__": "__docs__"}
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    for place, (language, body) in enumerate(blocks):
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(body, page.name, "exec"), namespace)
            if blocks[place + 1 : place + 2] and blocks[place + 1][0] == "text":
                assert matches(blocks[place + 1][1], output.getvalue()), f"{body}\nprinted\n{output.getvalue()}"
        if language == "console":
            for command, shown in commands(body):
                ran = subprocess.run(
                    command, shell=True, cwd=workplace, env=environment, capture_output=True, text=True, timeout=600
                )
                real = ran.stdout + ran.stderr
                assert matches(shown, real), f"$ {command}\nprinted\n{real}"


def test_the_page_of_the_command_line_shows_every_option() -> None:
    assert command_help.shown() == command_help.written(), "python docs/command_help.py writes it anew"


def test_shown_output_that_is_wrong_is_noticed() -> None:
    assert matches("a ... c\n", "a  b c\n")
    assert matches("one\n...\nlast\n", "one\ntwo\nthree\nlast\n")
    assert not matches("a ... c\n", "a b d\n")
    assert not matches("", "unexpected\n")
