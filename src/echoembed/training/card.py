"""The card of a trained model: what it is, how to load it, and all that it was made from."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load
from sentence_transformers import SentenceTransformer

from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.recipe import Recipe
from echoembed.training.config import TrainConfig
from echoembed.training.run_folder import CONFIG, LOG, SCORES, read_lines

_LIBRARIES = ("echoembed", "sentence-transformers", "transformers", "peft", "accelerate", "datasets", "torch")
_OBJECTIVES = {
    "contrastive": "contrastive fine-tuning (InfoNCE over in-batch and hard negatives)",
    "mntp": "masked next-token prediction (LLM2Vec)",
    "simcse": "unsupervised SimCSE",
}
_LAST = 0.1
"""Share of the steps, from the end, over which the loss is averaged."""


def card(
    model: SentenceTransformer,
    config: TrainConfig,
    run: Path,
    *,
    recipe: Recipe,
    rows: Mapping[str, int],
    pictures: Sequence[str] = (),
) -> str:
    """The card as Markdown under a header of the hub's.

    Args:
        model: The trained model.
        config: The run's configuration, in force.
        run: The run's folder: what it was begun with, its log and its scores are read from there.
        recipe: The recipe that goes with the weights.
        rows: Rows of each data set, where known.
        pictures: Names of the pictures beside the card.
    """
    log = read_lines(run / LOG)
    transformer = transformer_of(model)
    base = _called(transformer)
    licence = _licence(transformer.weights_folder)
    title = f"{base}, trained to embed with the recipe {recipe.name!r}"
    parts = [
        f"# {title}",
        f"A text embedder made with echoembed: {_OBJECTIVES[config.objective]} of {base}.",
        _loading(config),
        "## Weights",
        _table(
            ["", ""],
            [
                ["base", base],
                ["its revision", f"`{transformer.revision}`"],
                ["its licence", licence or "not stated in its files: see where it was published"],
                ["saved as", "adapter, beside its base" if config.save == "adapter" else "merged, whole"],
            ],
        ),
        "## Recipe",
        _table(["", ""], _recipe_rows(recipe)),
        "## Training",
        _table(["", ""], _training_rows(config, log)),
        "## Data",
        _table(["data set", "rows", "ratio", "rows trained on", "SHA-256"], _data_rows(config, run, log, rows)),
        *_scores(read_lines(run / SCORES)),
        *(f"![{Path(name).stem}]({name})" for name in pictures),
        "## Settings",
        f"```json\n{json.dumps(_settings(config), indent=2, ensure_ascii=False)}\n```",
        "## Libraries",
        ", ".join(f"{name} {version}" for name, version in _versions().items()),
    ]
    return f"---\n{_header(model, config, licence)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _called(transformer: EchoTransformer) -> str:
    """The base and the adapters below, without this machine's folders."""
    if transformer.base is None:
        return Path(transformer.name).name
    names = [transformer.base.model or "the bundled model", *(name for name, _ in transformer.base.adapters)]
    return " + ".join("/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name for name in names)


def _header(model: SentenceTransformer, config: TrainConfig, licence: str | None) -> str:
    transformer = transformer_of(model)
    on_hub = transformer.base is not None and transformer.base.origin == "hub"
    adapter = config.save == "adapter"
    header = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "echoembed", config.objective, *["lora"] * adapter],
        base_model=transformer.base.model if transformer.base and on_hub else None,
        base_model_relation=("adapter" if adapter else "finetune") if on_hub else None,
        license=licence,
    )
    return header.to_yaml()


def _loading(config: TrainConfig) -> str:
    if config.save == "adapter":
        call = "echoembed.load(adapter='path/to/this/folder')  # and the base, which it names"
    else:
        call = "echoembed.load('path/to/this/folder')"
    return f"```python\nimport echoembed\n\nmodel = {call}\nvectors = model.encode(['a text', 'another'])\n```"


def _recipe_rows(recipe: Recipe) -> list[list[str]]:
    return [
        ["name", recipe.name],
        ["query template", f"`{recipe.query_template!r}`"],
        ["document template", f"`{recipe.document_template!r}`"],
        ["pooling", recipe.pooling],
        ["attention", recipe.attention],
        ["layer", str(recipe.layer)],
        ["budget, tokens of text", "the context" if recipe.budget is None else f"{recipe.budget:,}"],
        ["fingerprint", f"`{recipe.fingerprint()}`"],
    ]


def _training_rows(config: TrainConfig, log: list[dict[str, Any]]) -> list[list[str]]:
    """What was done, as far as the log goes."""
    steps = log[-1]["step"] if log else 0
    rows = [
        ["objective", _OBJECTIVES[config.objective]],
        ["steps", f"{steps:,} of {config.optimiser.steps:,}"],
        ["rows per step", f"{config.optimiser.batch_size:,}"],
        ["tokens", f"{sum(line['tokens'] for line in log):,}"],
        ["time", str(timedelta(seconds=round(sum(line["seconds"] for line in log))))],
    ]
    if log:
        last = [line["loss"] for line in log[-max(1, round(_LAST * len(log))) :]]
        rows.append(
            ["loss", f"{log[0]['loss']:.4f} at first, {sum(last) / len(last):.4f} over the last {len(last)} steps"]
        )
    return rows


def _data_rows(config: TrainConfig, run: Path, log: list[dict[str, Any]], rows: Mapping[str, int]) -> list[list[str]]:
    begun = json.loads((run / CONFIG).read_text(encoding="utf-8")) if (run / CONFIG).is_file() else {}
    digests: Mapping[str, Mapping[str, str]] = begun.get("data", {})
    table = []
    for data in config.data:
        parts = {part.name for part in config.parts if part.data is data}
        seen = sum(line["rows"] for line in log if line["data_set"] in parts)
        files = [f"{Path(file).name} `{digest}`" for file, digest in digests.get(data.name, {}).items()]
        count = rows.get(data.name)
        ratio = f"{data.ratio:g}" if data.ratio else "by rows"
        table.append([data.name, "" if count is None else f"{count:,}", ratio, f"{seen:,}", "<br>".join(files)])
    return table


def _scores(scores: list[dict[str, Any]]) -> list[str]:
    """Scores before and after, × 100; nothing where none were made."""
    steps = sorted({line["step"] for line in scores})
    if not steps:
        return []
    before, after = steps[0], steps[-1]
    values = {(line["step"], line["task"]): 100 * line["score"] for line in scores}
    tasks = [task for task in dict.fromkeys(line["task"] for line in scores) if (after, task) in values]
    table = []
    for task in tasks:
        old, new = values.get((before, task)), values[after, task]
        table.append([task, "" if old is None else f"{old:.2f}", f"{new:.2f}"])
    note = "On samples of local data sets: they compare these steps, and are no scores of whole benchmarks."
    return ["## Scores", _table(["task", f"step {before:,}", f"step {after:,}"], table), note]


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The configuration without this machine's folders."""
    settings = config.as_dict()
    for table in (settings, *settings["data"], settings["score"]):
        for key in ("output", "path", "model", "data"):
            if isinstance(value := table.get(key), str) and Path(value).is_absolute():
                table[key] = Path(value).name
    return settings


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _licence(folder: Path) -> str | None:
    """What the base's own card says, where it lies beside its weights."""
    for path in (folder / "README.md", folder.parent / "README.md"):
        if path.is_file():
            try:
                return (metadata_load(path) or {}).get("license")
            except (ValueError, OSError):
                return None
    return None


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
