"""The command line, with a file for each verb, which parses, calls the library and prints.

Nothing heavy is imported before a verb runs, so that ``echoembed --help`` answers at once. The verbs themselves are
imported by ``main``, which by then can say in a line that it was interrupted.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from echoembed.cli import interrupts

if TYPE_CHECKING:
    from echoembed.cli.verbs import app as app


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from echoembed.cli import verbs

    return verbs.app


def main() -> None:
    """Run the command line and exit with its code."""
    interrupts.raise_when_terminated()
    if isinstance(sys.stdout, io.TextIOWrapper):  # go on if the terminal cannot show a text's letters
        sys.stdout.reconfigure(errors="replace")
    with interrupts.told():
        from echoembed.cli.verbs import app
    app()
