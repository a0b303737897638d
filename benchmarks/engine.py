"""What an embedding costs: the packed engine beside the padded forward, a naive loop and the stock library.

    python benchmarks/engine.py --quick                  a minute or two
    python benchmarks/engine.py --full                   more texts, more rounds
    python benchmarks/engine.py --full --model llama-100m  random weights of that size, same tokenizer
    python benchmarks/engine.py --texts FILE             texts of your own, one on a line, instead of made ones

One thread. Systems take turns, and what is reported are medians over rounds of ratios within a round, with their
least and greatest: what else the machine does hits all alike. Results: a JSON and a PNG in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

import echoembed
from echoembed.engine import linear

LENGTHS = (16, 25, 64, 256, 1024)
BASELINE = "echo padded"
BUNDLED = Path(echoembed.__file__).with_name("tiny")


@dataclass
class Row:
    """One system at one length: medians over rounds, and the spread of the ratio to the baseline."""

    length: str
    system: str
    texts: int
    cpu_s: float
    wall_s: float
    prompt_tokens_per_cpu_s: float
    ceiling_share: float
    ratio: float
    ratio_least: float
    ratio_greatest: float


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few texts, three rounds (the default)")
    size.add_argument("--full", action="store_true", help="ten times the texts, seven rounds")
    parser.add_argument("--model", choices=("bundled", "llama-100m"), default="bundled")
    parser.add_argument("--texts", type=Path, help="a file with a text on each line")
    parser.add_argument("--lengths", type=int, nargs="*", default=[*LENGTHS, 0], help="tokens of a text; 0 for mixed")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    with tempfile.TemporaryDirectory() as scratch:
        folder = BUNDLED if arguments.model == "bundled" else _llama_100m(Path(scratch))
        systems = _systems(folder)
        batches = _batches(systems["echo packed"][1], arguments)
        rows = []
        for name, texts in batches.items():
            rows += _measure(name, texts, systems, 7 if arguments.full else 3, arguments.batch_size)
    facts = {
        "model": arguments.model,
        "torch": torch.__version__,
        "processor": _processor(),
        "oneDNN products": linear.available(),
        "GEMM ceiling (GFLOP/s)": round(_ceiling(), 1),
        "load": os.getloadavg(),
        "batch size": arguments.batch_size,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / f"engine-{arguments.model}{'-full' if arguments.full else ''}"
    stem.with_suffix(".json").write_text(json.dumps({"facts": facts, "rows": [asdict(row) for row in rows]}, indent=1))
    _plot(rows, stem.with_suffix(".png"), arguments.model)
    print(f"written: {stem}.json, {stem}.png")


def _systems(folder: Path) -> dict[str, tuple[Callable[[list[str], int], object], SentenceTransformer]]:
    """Name → how it embeds, and its model."""

    def ours(recipe: str, **settings: object) -> tuple[Callable[[list[str], int], object], SentenceTransformer]:
        model = echoembed.load(folder, recipe=recipe, budget=1024, device="cpu", **settings)
        model[0].overflow = "ignore"
        return (lambda texts, size: model.encode(texts, batch_size=size)), model

    def stock(dtype: str) -> tuple[Callable[[list[str], int], object], SentenceTransformer]:
        first = Transformer(str(folder), model_kwargs={"dtype": dtype})  # else the one the weights were saved in
        pooling = Pooling(first.get_embedding_dimension(), pooling_mode="mean", include_prompt=False)
        model = SentenceTransformer(modules=[first, pooling, Normalize()], device="cpu")
        return (lambda texts, size: model.encode(texts, batch_size=size, prompt="Write a paragraph: ")), model

    padded = ours("echo", engine="padded")[1]
    return {
        "classical stock": stock("float32"),
        "classical stock, bfloat16": stock("bfloat16"),
        "classical padded": ours("classical", engine="padded"),
        "classical packed": ours("classical"),
        "classical packed, bfloat16": ours("classical", dtype="bfloat16"),
        "echo naive loop": (lambda texts, _: [padded.encode(text) for text in texts], padded),
        "echo padded": ours("echo", engine="padded"),
        "echo packed": ours("echo"),
        "echo packed, deterministic": ours("echo", deterministic=True),
        "echo packed, bfloat16": ours("echo", dtype="bfloat16"),
        "echo packed, int8": ours("echo", dtype="int8"),
    }


def _measure(
    name: str,
    texts: list[str],
    systems: dict[str, tuple[Callable[[list[str], int], object], SentenceTransformer]],
    rounds: int,
    batch_size: int,
) -> list[Row]:
    cpu: dict[str, list[float]] = {system: [] for system in systems}
    wall: dict[str, list[float]] = {system: [] for system in systems}
    ceilings = []
    for round_ in range(rounds):
        order = list(systems)
        random.Random(round_).shuffle(order)
        ceilings.append(_ceiling())
        for system in order:
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            systems[system][0](texts, batch_size)
            cpu[system].append(time.process_time() - cpu_start)
            wall[system].append(time.perf_counter() - wall_start)
    rows = []
    print(f"\n{name}: {len(texts)} texts, ceiling {statistics.median(ceilings):.0f} GFLOP/s")
    for system, (_, model) in systems.items():
        ratios = [one / base for one, base in zip(cpu[system], cpu[BASELINE], strict=True)]
        tokens, flops = _work(system, model, texts)
        seconds = statistics.median(cpu[system])
        row = Row(
            name,
            system,
            len(texts),
            seconds,
            statistics.median(wall[system]),
            tokens / seconds,
            flops / seconds / 1e9 / statistics.median(ceilings),
            statistics.median(ratios),
            min(ratios),
            max(ratios),
        )
        rows.append(row)
        print(
            f"  {system:28} {row.cpu_s:8.3f} s cpu {row.wall_s:8.3f} s wall {row.prompt_tokens_per_cpu_s:9.0f} tokens/s"
            f" {row.ceiling_share:5.0%} of ceiling  x{row.ratio:.2f} ({row.ratio_least:.2f}-{row.ratio_greatest:.2f})"
        )
    return rows


def _work(system: str, model: SentenceTransformer, texts: list[str]) -> tuple[int, float]:
    """Prompt tokens without padding, and the floating-point operations of their linear layers."""
    if system.startswith("classical stock"):
        tokens = sum(len(ids) for ids in model.tokenizer(["Write a paragraph: " + text for text in texts])["input_ids"])
    else:
        tokens = sum(len(rendered.ids) for rendered in model[0].render(texts))
    config = model[0].model.config
    width, inner = config.hidden_size, config.intermediate_size
    heads = config.num_key_value_heads * config.head_dim
    layer = 2 * width * config.num_attention_heads * config.head_dim + 2 * width * heads + 3 * width * inner
    return tokens, 2.0 * tokens * config.num_hidden_layers * layer


def _ceiling() -> float:
    """The best float32 matrix product of this thread now, in GFLOP/s, oneDNN or MKL."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    products = [lambda: torch.nn.functional.linear(left, right)]
    if linear.available():
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))
    best = 0.0
    for product in products:
        product()
        for _ in range(5):
            start = time.process_time()
            product()
            best = max(best, 2 * 1024**3 / (time.process_time() - start) / 1e9)
    return best


def _batches(model: SentenceTransformer, arguments: argparse.Namespace) -> dict[str, list[str]]:
    if arguments.texts:
        texts = [line.strip() for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {arguments.texts.name: texts}
    words = _words(model)
    scale = 40000 if arguments.full else 4000
    chance = random.Random(0)
    batches = {}
    for length in arguments.lengths:
        count = max(2, scale // (length or 48))
        lengths = [length or min(1024, max(3, round(chance.lognormvariate(3.4, 0.9)))) for _ in range(count)]
        batches[str(length) if length else "mixed"] = [" ".join(chance.choices(words, k=size)) for size in lengths]
    if arguments.model == "llama-100m" and not arguments.full:
        return {name: texts[: max(2, len(texts) // 5)] for name, texts in batches.items()}
    return batches


def _words(model: SentenceTransformer) -> list[str]:
    """Words that are one token each."""
    pieces = model[0].pieces
    plain = [token[1:] for token in model.tokenizer.get_vocab() if token[:1] in "▁Ġ" and token[1:].isalpha()]
    words = [word for word in sorted(plain) if word.isascii() and len(word) > 3]
    return [word for word in words if len(pieces.encode([" " + word])[0].ids) == 1][:800]


def _llama_100m(folder: Path) -> Path:
    """A Llama of about 100 million weights, drawn at random, with the bundled model's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    tokenizer.model_max_length = 4096
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaModel(config).save_pretrained(folder)
    return folder


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _plot(rows: list[Row], path: Path, model: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lengths = list(dict.fromkeys(row.length for row in rows))
    systems = list(dict.fromkeys(row.system for row in rows))
    figure, panels = plt.subplots(
        1, len(lengths), figsize=(2 + 2.9 * len(lengths), 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, length in zip(panels[0], lengths, strict=True):
        own = {row.system: row for row in rows if row.length == length}
        ratios = [own[system].ratio for system in systems]
        low = [own[system].ratio - own[system].ratio_least for system in systems]
        high = [own[system].ratio_greatest - own[system].ratio for system in systems]
        colors = ["#0a6e9c" if system.startswith("echo") else "#c6541f" for system in systems]
        axes.barh(systems, ratios, xerr=[low, high], color=colors, error_kw={"linewidth": 1})
        axes.axvline(1, color="black", linewidth=0.6, linestyle=":")
        axes.set(
            title="mixed lengths" if length == "0" else f"{length} tokens a text", xlabel=f"CPU time, {BASELINE} = 1"
        )
        axes.grid(axis="x", alpha=0.3)
        axes.invert_yaxis() if axes is panels[0][0] else None
    figure.suptitle(f"What does an embedding cost? One thread, {model} model; least and greatest of the rounds")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
