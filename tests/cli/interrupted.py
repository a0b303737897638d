"""Commands that are interrupted in the middle of their work, each in a process forked after the imports.

``python interrupted.py PLAN.json`` takes a list of commands: the words of each, the folder it runs in, a pattern of
what appears there once its work has begun (empty: at once, while it waits for its input), and the signal it then gets.
What it said on standard error is left in ``stderr.txt`` of that folder, its exit status is printed.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

PATIENCE = 120.0


def main() -> None:
    import echoembed.evaluation.run
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
        os.close(reading)
        wait_for(child, Path(entry["folder"]), entry["begun"])
        os.kill(child, getattr(signal, entry["signal"]))
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os.close(writing)
    sys.stdout.write(json.dumps(ends))


def wait_for(child: int, folder: Path, begun: str) -> None:
    """Until something of that name is there, or the child has ended, which its exit status will show."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if any(folder.glob(begun or "stderr.txt")):
            time.sleep(0.0 if begun else 0.5)
            return
        time.sleep(0.01)


if __name__ == "__main__":
    main()
