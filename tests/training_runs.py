"""Small runs: two data sets of their own templates and instructions, a tiny model, a few steps.

As a script, ``python runs.py PLAN.json`` makes runs in processes of their own, one after the other: the plan has, of
each, its configuration, settings (those of ``prepare``, and ``processes``), and the file that takes what it says.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

import tiny_models
from echoembed.training.config import (
    AdapterConfig,
    CheckpointConfig,
    DataConfig,
    OptimiserConfig,
    TrainConfig,
    from_dict,
)
from echoembed.training.tables import TeacherConfig

QUERY = "{bos}Instruct: {instruction} Query: {text} Query again: {text}{eos:pool}"
DOCUMENT = "{bos}Document: {text} Document again: {text}{eos:pool}"


def write_rows(path: Path, count: int, *, seed: int, negatives: int = 1) -> Path:
    """Rows of random words, all different."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(tiny_models.WORDS, k=draw.randint(3, 12)))

    rows = [
        {"query": f"{text()} {n}", "positive": f"{text()} {n}", "negatives": [text() for _ in range(negatives)]}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def small(folder: Path, **changes) -> TrainConfig:
    """A run of 6 steps of 4 rows, in ``folder``; dropout is on."""
    data = folder / "data"
    if not data.exists():
        data.mkdir(parents=True)
        write_rows(data / "asked.jsonl", 11, seed=1)
        write_rows(data / "alike.jsonl", 9, seed=2)
    config = TrainConfig(
        output=str(folder / "run"),
        model=str(tiny_models.folder("llama", num_hidden_layers=2, attention_dropout=0.1)),
        query_template=QUERY,
        document_template=DOCUMENT,
        pooling="last",
        seed=3,
        data=(
            DataConfig(path=str(data / "asked.jsonl"), instruction="Given a query, retrieve passages"),
            DataConfig(path=str(data / "alike.jsonl"), instruction="Retrieve similar text", symmetric=True),
        ),
        adapter=AdapterConfig(rank=4, dropout=0.1),
        optimiser=OptimiserConfig(steps=6, batch_size=4, chunk_size=3, learning_rate=0.01, warmup_steps=2),
        checkpoint=CheckpointConfig(every=2, keep=2),
    )
    return replace(config, **changes)


def drawn(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def vectors_of(texts, width=6):
    """A teacher's vectors, any: a function of the text alone."""
    return [drawn(1, width, sum(map(ord, text)) + len(text))[0].tolist() for text in texts]


def distilling(folder, *, pairs=False, **changes):
    """A run of 6 steps of 4 texts, two neighbours in each group, under a file of vectors."""
    config = small(folder)
    groups = [[f"the river carried boat {n}", f"boats of the river {n}"] for n in range(9)]
    file = folder / "data" / "groups.jsonl"
    file.write_text("".join(json.dumps({"texts": group}) + "\n" for group in groups))
    vectors = folder / "vectors.jsonl"
    texts = [text for group in groups for text in group]
    lines = [{"text": text, "vector": vector} for text, vector in zip(texts, vectors_of(texts), strict=True)]
    vectors.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = [DataConfig(path=str(file), neighbours=2, ratio=1.0)]
    if pairs:
        data.append(DataConfig(path=str(folder / "data" / "asked.jsonl"), pairs=True, ratio=1.0))
    settings = {
        "objective": "distil",
        "query_template": "{bos}Rewrite : {text} again : {text:pool}",
        "document_template": "{bos}Document : {text} again : {text:pool}",
        "pooling": "mean",
        "data": tuple(data),
        "teacher": TeacherConfig(vectors=str(vectors)),
    }
    return replace(config, **{**settings, **changes})


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What a run had trained at its last checkpoint."""
    from safetensors.torch import load_file

    last = max((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    return load_file(last / "weights.safetensors")


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def without_pictures() -> None:
    """Have no curves drawn, which takes as long as a run and is tested elsewhere."""
    from echoembed.training import curves

    curves.draw = lambda _folder: []


def main() -> None:
    from echoembed.training import run

    without_pictures()
    torch.set_num_threads(1)
    for number, entry in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        count = entry["settings"].pop("processes", 1)
        children = []
        for rank in range(count):
            if (child := os.fork()) == 0:  # after the imports, which take longer than the runs
                with Path(entry["says"]).open("a") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                if count > 1:  # as torchrun would
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                    os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
                    os.environ |= {"MASTER_PORT": str(free_port(number)), "OMP_NUM_THREADS": "1"}
                prepare(**entry["settings"])
                run.train(from_dict(entry["config"]), resume=entry["settings"].get("resume", False))
                os._exit(0)
            children.append(child)
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        with Path(entry["says"]).open("a") as file:
            file.write(f"\nended with {', '.join(map(str, ends))}\n")


def free_port(number: int) -> int:
    """The same in processes that were forked for one run, another for the next."""
    return 20_000 + (os.getppid() + 977 * number) % 40_000


def prepare(
    *,
    kill_in_step: int = 0,
    kill_in_checkpoint: int = 0,
    stop_in_step: int = 0,
    largest_file: int = 0,
    resume: bool = False,
) -> None:
    if kill_in_step:
        send(signal.SIGKILL, kill_in_step)
    if stop_in_step and os.environ["RANK"] == "1":
        send(signal.SIGTERM, stop_in_step)
    if kill_in_checkpoint:
        die_in_checkpoint(kill_in_checkpoint)
    if largest_file:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))


def send(number: signal.Signals, step: int) -> None:
    """Have this process sent a signal in a step, when its loss is known and before anything is saved of it."""
    from echoembed.training.trainer import EchoTrainer

    usual = EchoTrainer.compute_loss

    def compute_and_send(self, *arguments, **named):
        loss = usual(self, *arguments, **named)
        if self.state.global_step == step - 1:
            os.kill(os.getpid(), number)
        return loss

    EchoTrainer.compute_loss = compute_and_send


def die_in_checkpoint(step: int) -> None:
    """Have this process killed when a checkpoint is written, all but one of its files."""
    from echoembed.training import checkpoint

    usual = checkpoint.json.dumps

    def die(record, **named):
        if "config" in record and list(Path(record["config"]["output"]).glob(f"checkpoints/step-{step - 2}")):
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(record, **named)

    checkpoint.json.dumps = die


if __name__ == "__main__":
    main()
