"""Commands that are interrupted in the middle of their work, each in a process forked after the imports.

``python interrupted.py PLAN.json`` takes a list of commands: the words of each, the folder it runs in, a pattern of
what appears there in its work (empty: it reads its input, and waits for more of it), and the signal it then gets. Two
files of the pattern are waited for: a file that has its name may not have reached the disk, and an interrupt then takes
it back; the one before it has. What the command said on standard error is left in ``stderr.txt`` of that folder, its
exit status is printed.
"""

import fcntl
import json
import os
import signal
import sys
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

PATIENCE = 120.0


def main() -> None:
    import echoembed.cli.verbs
    import echoembed.evaluation.run
    import echoembed.experiments.reproduce
    import echoembed.training.run  # noqa: F401
    from echoembed import cli

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where whoever runs the tests ignores it
    ends = []
    for entry in json.loads(Path(sys.argv[1]).read_text()):
        reading, writing = os.pipe()  # a standard input that never ends
        if (child := os.fork()) == 0:
            os.close(writing)
            os.chdir(entry["folder"])
            os.dup2(reading, 0)
            os.dup2(os.open("stderr.txt", os.O_WRONLY | os.O_CREAT, 0o600), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.argv = ["echoembed", *entry["words"]]
            cli.main()
            os._exit(0)
        os.write(writing, b"a text\n")
        wait_for(child, partial(has_begun, Path(entry["folder"]), entry["begun"], reading))
        os.kill(child, getattr(signal, entry["signal"]))
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os.close(writing)
        os.close(reading)
    sys.stdout.write(json.dumps(ends))


def has_begun(folder: Path, pattern: str, reading: int) -> bool:
    """Whether a second file of this pattern is there, or what was written to the standard input has been read."""
    if pattern:
        return len(list(folder.glob(pattern))) > 1
    waiting = fcntl.ioctl(reading, termios.FIONREAD, bytes(4))
    return int.from_bytes(waiting, sys.byteorder) == 0


def wait_for(child: int, begun: Callable[[], bool]) -> None:
    """Until its work has begun, or the child has ended, which its exit status will show."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if begun():
            return
        time.sleep(0.01)


if __name__ == "__main__":
    main()
