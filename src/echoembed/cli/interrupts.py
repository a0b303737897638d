"""Ctrl-C and requests to end: a line that says what was kept, and an exit code.

It imports nothing of ours or of typer's, so that the line can be said while these are still being imported.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


def raise_when_terminated() -> None:
    """Turn the signal into an exception, so that unfinished files are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn an interrupt of the block into a line that says what was kept, and an exit code.

    What was kept is in the exception's notes; without any, nothing was written.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        code = error.code if isinstance(error, SystemExit) else INTERRUPTED
        if code not in (INTERRUPTED, TERMINATED):
            raise
        kept = " ".join(getattr(error, "__notes__", [])) or "nothing was written"
        if sys.stderr is not None:
            sys.stderr.write(f"error: {'terminated' if code == TERMINATED else 'interrupted'}: {kept}\n")
        raise SystemExit(code) from error
