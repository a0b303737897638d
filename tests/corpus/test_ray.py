"""On a local Ray two actors make the shards that one process makes, and the death of one loses nothing."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="make test-integrations installs Ray")

from echoembed import errors
from echoembed.corpus import Reading, build
from echoembed.corpus.ray import OnRay
from fake_encoder import FakeEncoder

READING = Reading(id="id", shard_rows=5)
ROWS = 40


@dataclass
class Dying:
    """Makes encoders of which the first to embed a text ends its process, as a machine that fails would."""

    log: Path
    kills: bool = False
    fails: bool = False

    def __call__(self):
        encoder = FakeEncoder()
        encode = encoder.encode

        def logged(prompts):
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {len(prompts)}\n")
            if self.kills and not self.log.with_suffix(".killed").exists():
                self.log.with_suffix(".killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fails:
                raise errors.TextError("The template leaves no room for any text.")
            time.sleep(0.2)  # so that the other actor gets its share
            return encode(prompts)

        encoder.encode = logged
        return encoder


@pytest.fixture(scope="module", autouse=True)
def _local_ray():
    import ray

    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    ray.data.DataContext.get_current().wait_for_min_actors_s = 120  # so that both have something to do
    yield
    ray.shutdown()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [f'{{"id": "r{number}", "text": "text number {number % 33}"}}\n' for number in range(ROWS)]
    path.write_text("".join(lines) + '{"id": "x", "text": "BLANK"}\nbad\n')
    return path


def contents(out):
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


def test_two_actors_make_the_same_shards(source, tmp_path):
    build([source], tmp_path / "here", FakeEncoder(), reading=READING)
    engine = OnRay(make_encoder=Dying(tmp_path / "log"), workers=2)
    report = build([source], tmp_path / "ray", FakeEncoder(), reading=READING, engine=engine)
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    actors = {line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}
    assert len(actors) == 2
    assert str(os.getpid()) not in actors
    assert report.manifest.rejected == 2
    assert (report.embedded, report.reused, report.repeated) == (ROWS, 0, 0)  # an actor has not the others' vectors


def test_an_actor_that_dies_loses_nothing(source, tmp_path):
    build([source], tmp_path / "here", FakeEncoder(), reading=READING)
    engine = OnRay(make_encoder=Dying(tmp_path / "log", kills=True), workers=2)
    build([source], tmp_path / "ray", FakeEncoder(), reading=READING, engine=engine)
    assert (tmp_path / "log.killed").exists() or (tmp_path / "log").with_suffix(".killed").exists()
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_what_is_there_is_not_made_again(source, tmp_path):
    build([source], tmp_path / "out", FakeEncoder(), reading=READING)
    _, *rest = sorted((tmp_path / "out" / "shards").iterdir())
    before = contents(tmp_path / "out")
    for path in rest[:2]:
        path.unlink()
    engine = OnRay(make_encoder=Dying(tmp_path / "log"), workers=2)
    build([source], tmp_path / "out", FakeEncoder(), reading=READING, engine=engine)
    assert sum(int(line.split()[1]) for line in (tmp_path / "log").read_text().splitlines()) == 10
    assert contents(tmp_path / "out") == before


def test_an_error_of_an_actor_arrives_as_itself(source, tmp_path):
    engine = OnRay(make_encoder=Dying(tmp_path / "log", fails=True), workers=2)
    with pytest.raises(errors.TextError, match="leaves no room"):
        build([source], tmp_path / "out", FakeEncoder(), reading=READING, engine=engine)
