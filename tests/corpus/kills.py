"""Builds that are killed with SIGKILL, in forked children of a process that has no threads, and gone on with.

    python tests/corpus/kills.py --kills 200 --seed 0

prints a line of JSON for what was seen; ``make soak`` runs it. A kill is either at a chosen event (a sync, a rename, a
removal, a call of the encoder) or at a random moment.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from echoembed.corpus import Reading, build
from echoembed.corpus import folder as place
from echoembed.corpus import manifest as notes
from fake_encoder import FakeEncoder

SHARD = 7
READING = Reading(id="id", shard_rows=SHARD)


def write_rows(path: Path, count: int, *, changed: bool = False) -> None:
    """Rows with a bad one now and then; changed, some are new, some gone, some edited."""
    lines = []
    for number in range(count):
        text = f"text number {number} is here"
        if changed and number % 9 == 0:
            continue
        if changed and number % 5 == 0:
            text = f"text number {number} was edited"
        lines.append(json.dumps({"id": f"r{number}", "text": text}))
        if number % 11 == 0:
            lines.append("no json")
        if number % 13 == 0:
            lines.append(json.dumps({"id": f"b{number}", "text": f"BLANK to the model {number}"}))
    path.write_text("\n".join(lines) + "\n")


class Killer:
    """Counts events and kills this process at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "hardlink_to")):
            self._watch(owner, name)

    def _watch(self, owner, name):
        real = getattr(owner, name)

        def watched(*args, **kwargs):
            self.event()
            result = real(*args, **kwargs)
            self.event()
            return result

        setattr(owner, name, watched)

    def event(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def run(source: Path, out: Path, log: Path, *, at: int = 0, seconds: float | None = None) -> tuple[bool, int]:
    """Build in a child; whether it was killed, and at which event it would have ended."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            killer = Killer(at)
            encoder = FakeEncoder()
            real = encoder.encode

            def encode(prompts):
                killer.event()
                with log.open("a") as file:  # what was embedded, by whichever run
                    file.write("".join(f"{prompt.text}\n" for prompt in prompts))
                if seconds is not None:
                    time.sleep(0.001)
                vectors = real(prompts)
                killer.event()
                return vectors

            encoder.encode = encode
            build([source], out, encoder, reading=READING)
            os.write(send, str(killer.count).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(send)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    told = os.read(receive, 20)
    os.close(receive)
    killed = os.WIFSIGNALED(status)
    if not killed and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"the build failed: {status}")
    return killed, int(told or 0)


def contents(out: Path) -> dict[str, bytes]:
    """All files of a corpus but the lock."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def check(workplace: Path, *, at: int = 0, seconds: float | None = None, changed: bool = False, rows: int = 40) -> bool:
    """Kill a build once, go on, and compare with one that was left alone; whether it was killed at all."""
    source, calm = workplace / "rows.jsonl", workplace / f"calm-{changed}-{rows}"
    log, out = workplace / "log", workplace / "out"
    if not calm.exists():
        write_rows(source, rows)
        run(source, calm, log)
        if changed:
            shutil.copytree(calm, workplace / f"first-{rows}")
            write_rows(source, rows, changed=True)
            log.unlink()
            run(source, calm, log)
        (workplace / f"log-{changed}-{rows}").write_bytes(log.read_bytes())
    write_rows(source, rows, changed=changed)
    shutil.rmtree(out, ignore_errors=True)
    if changed:
        shutil.copytree(workplace / f"first-{rows}", out)
    log.unlink(missing_ok=True)
    killed, _ = run(source, out, log, at=at, seconds=seconds)
    if changed:  # whoever searches meanwhile finds the old corpus or the new one, whole
        before = notes.read(out)
        assert before.state == "complete"
        there = {path.name for paths in place.shards_in(out).values() for path in paths}
        assert {entry.name for entry in before.shards} <= there, "a shard that the manifest names is gone"
    run(source, out, log)
    assert contents(out) == contents(calm), f"killed at {at or seconds}: another corpus"
    needed = len((workplace / f"log-{changed}-{rows}").read_text().splitlines())
    done = len(log.read_text().splitlines()) if log.exists() else 0
    assert done <= needed + SHARD, f"killed at {at or seconds}: {done - needed} texts embedded again"
    return killed


def events(workplace: Path, *, changed: bool) -> int:
    """How many events a build has that is left alone."""
    check(workplace, changed=changed)
    write_rows(workplace / "rows.jsonl", 40, changed=changed)
    out = workplace / "out"
    shutil.rmtree(out, ignore_errors=True)
    if changed:
        shutil.copytree(workplace / "first-40", out)
    return run(workplace / "rows.jsonl", out, workplace / "log")[1]


def main() -> None:
    """Kill builds, half of them at chosen events, half at random moments."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    seen = {"event": 0, "moment": 0, "survived": 0}
    with tempfile.TemporaryDirectory() as folder:
        workplace = Path(folder)
        many = {changed: events(workplace, changed=changed) for changed in (False, True)}
        start = time.perf_counter()
        check(workplace, rows=200)
        whole = (time.perf_counter() - start) / 3
        while seen["event"] + seen["moment"] < args.kills:
            changed = draw.random() < 0.5
            if draw.random() < 0.5:
                killed = check(workplace, at=draw.randint(1, many[changed]), changed=changed)
                seen["event" if killed else "survived"] += 1
            else:
                killed = check(workplace, seconds=draw.uniform(0, whole), changed=changed, rows=200)
                seen["moment" if killed else "survived"] += 1
    sys.stdout.write(json.dumps({**seen, "events_of_a_build": many[False], "events_of_a_rebuild": many[True]}) + "\n")


if __name__ == "__main__":
    main()
