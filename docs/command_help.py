"""Write what every command answers to --help into docs/cli.md: python docs/command_help.py.

The text stands between two markers; docs/test_docs.py compares it with what the commands say.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

PAGE = Path(__file__).with_name("cli.md")
BEGIN, END = "<!-- help: written by docs/command_help.py -->\n", "<!-- end of help -->\n"
WIDTH = 100
PROGRAM = "from echoembed.cli import main; main()"


def answer(*command: str) -> str:
    """What ``echoembed COMMAND --help`` prints, as on a terminal without colours."""
    settings = {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command, "--help"],
        env={**os.environ, **settings, "PYTHONIOENCODING": "utf-8"},
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    # The program's name is taken from the command line, which is not `echoembed` here.
    lines = [line.rstrip() for line in ran.stdout.replace("Usage: -c", "Usage: echoembed").splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def written() -> str:
    """The section as it should be: a heading and a block for each verb."""
    from echoembed.cli import app

    verbs = paths(typer.main.get_command(app))
    blocks = [f"### echoembed {' '.join(verb)}\n\n```text\n{answer(*verb)}```\n" for verb in verbs]
    return "\n" + "\n".join(blocks) + "\n"


def paths(command: object) -> list[tuple[str, ...]]:
    """The words that lead to each command that does something."""
    below: dict[str, object] = getattr(command, "commands", {})
    return [(name, *rest) for name, inner in below.items() for rest in paths(inner)] or [()]


def shown() -> str:
    """The section as it stands in the page."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + BEGIN + written() + END + rest.partition(END)[2], encoding="utf-8")
