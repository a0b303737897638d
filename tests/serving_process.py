"""A server as a process of its own, whose model obeys certain texts.

    with serving_process.started() as process: …

Run as a program it is that process: a text with "the end" ends the model's thread, one with "slowly" takes a while.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import serving

END, SLOWLY = "the end", "slowly"


class Obedient(serving.ServedModel):
    def vectors(self, prompts, lane=""):
        if any(END in prompt.text for prompt in prompts):
            raise SystemExit(9)
        if any(SLOWLY in prompt.text for prompt in prompts):
            time.sleep(0.05)
        return super().vectors(prompts, lane)


class Process(serving.Running):
    """The process; its address is that of a server in this process."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stdout is not None
        line = popen.stdout.readline()
        assert line.startswith("serving on http"), line + popen.communicate()[1]
        self.popen = popen
        super().__init__(None, line.split()[-1])

    def metric(self, name: str) -> float:
        [line] = [
            line for line in self.get("/metrics")[1].decode().splitlines() if line.startswith(f"echoembed_{name} ")
        ]
        return float(line.split()[-1])


@contextmanager
def started(*arguments: str):
    """A process that serves, with the real command line where arguments are given."""
    command = [
        sys.executable,
        "-c",
        "from echoembed.cli import main; main()",
        "serve",
        serving.TINY,
        "--port",
        "0",
        *arguments,
    ]
    if not arguments:
        command = [sys.executable, str(Path(__file__).resolve())]
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Process(popen)
    finally:
        popen.kill()
        popen.communicate()


def main() -> int:
    import torch

    def say(address: str) -> None:
        sys.stdout.write(f"serving on {address}\n")
        sys.stdout.flush()

    torch.set_num_threads(1)
    settings = serving.Settings(port=0)
    server = serving.Server(serving.model(), settings, encoder_class=Obedient)
    return server.run_on(serving.bind(settings), say)


if __name__ == "__main__":
    sys.exit(main())
