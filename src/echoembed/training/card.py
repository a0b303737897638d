"""The card of a trained model: what it is, how to load it, and everything that it was made from."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, metadata_load
from sentence_transformers import SentenceTransformer

from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.recipe import Recipe
from echoembed.sources.packaged import PACKAGED
from echoembed.training.config import TrainConfig
from echoembed.training.run_folder import CONFIG, LOG, SCORES, read_lines

_LIBRARIES = ("echoembed", "sentence-transformers", "transformers", "peft", "accelerate", "datasets", "torch")
_OBJECTIVES = {
    "contrastive": "contrastive fine-tuning (InfoNCE over in-batch and hard negatives)",
    "mntp": "masked next-token prediction (LLM2Vec)",
    "simcse": "unsupervised SimCSE",
    "distil": "distillation of a teacher's cosines within each batch",
}
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_LAST = 0.1
"""The share of the steps, at the end of the run, over which the loss is averaged."""


def card(
    model: SentenceTransformer,
    config: TrainConfig,
    run: Path,
    *,
    recipe: Recipe,
    rows: Mapping[str, int],
    pictures: Sequence[str] = (),
) -> str:
    """Write the card as Markdown, with the hub's metadata as its header.

    Args:
        model: The trained model.
        config: The run's configuration in force.
        run: The run's folder, with its configuration, log and scores.
        recipe: The recipe that belongs to the weights.
        rows: The number of rows of each data set, if known.
        pictures: Names of the pictures beside the card.
    """
    transformer = transformer_of(model)
    log = read_lines(run / LOG)
    before, after, scores = _scores(read_lines(run / SCORES))
    markdown = ModelCard.from_template(
        _header(transformer, config),
        template_path=str(_TEMPLATE),
        row=_row,
        base=_base_name(transformer),
        revision=transformer.revision,
        adapter=config.save == "adapter",
        objective=_OBJECTIVES[config.objective],
        recipe=recipe,
        config=config,
        start=Path(config.adapter.start).name,
        log=log,
        last=log[-max(1, round(_LAST * len(log))) :],
        time=timedelta(seconds=round(sum(line["seconds"] for line in log))),
        data_sets=_data_sets(config, run, log, rows),
        before=before,
        after=after,
        scores=scores,
        pictures=pictures,
        settings=json.dumps(_settings(config), indent=2, ensure_ascii=False),
        libraries=", ".join(f"{name} {version}" for name, version in _versions().items()),
    )
    return f"{markdown}\n"


def _base_name(transformer: EchoTransformer) -> str:
    """Name the base and its adapters, without folders of this machine."""
    if transformer.base is None:
        return Path(transformer.name).name
    names = [transformer.base.model or "the bundled model", *(name for name, _ in transformer.base.adapters)]
    return " + ".join("/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name for name in names)


def _header(transformer: EchoTransformer, config: TrainConfig) -> ModelCardData:
    on_hub = transformer.base is not None and transformer.base.origin == "hub"
    adapter = config.save == "adapter"
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "echoembed", config.objective, *["lora"] * adapter],
        base_model=transformer.base.model if transformer.base and on_hub else None,
        base_model_relation=("adapter" if adapter else "finetune") if on_hub else None,
        license=_licence(transformer),
    )


def _data_sets(config: TrainConfig, run: Path, log: list[dict[str, Any]], rows: Mapping[str, int]) -> list[list[str]]:
    """Return a row for each data set: name, rows, ratio, rows trained on, and its files with their hashes."""
    record = json.loads((run / CONFIG).read_text(encoding="utf-8")) if (run / CONFIG).is_file() else {}
    digests: Mapping[str, Mapping[str, str]] = record.get("data", {})
    table = []
    for data in config.data:
        parts = {part.name for part in config.parts if part.data is data}
        seen = sum(line["rows"] for line in log if line["data_set"] in parts)
        files = [f"{Path(file).name} `{digest}`" for file, digest in digests.get(data.name, {}).items()]
        count = rows.get(data.name)
        ratio = f"{data.ratio:g}" if data.ratio else "by rows"
        table.append([data.name, "" if count is None else f"{count:,}", ratio, f"{seen:,}", "<br>".join(files)])
    return table


def _scores(scores: list[dict[str, Any]]) -> tuple[int, int, list[list[str]]]:
    """Return the first and the last step that was scored, and a row for each task with its scores × 100 at both."""
    if not scores:
        return 0, 0, []
    steps = [line["step"] for line in scores]
    before, after = min(steps), max(steps)
    values = {(line["step"], line["task"]): f"{100 * line['score']:.2f}" for line in scores}
    tasks = [task for task in dict.fromkeys(line["task"] for line in scores) if (after, task) in values]
    return before, after, [[task, values.get((before, task), ""), values[after, task]] for task in tasks]


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration without folders of this machine."""
    settings = config.as_dict()
    for table in (settings, *settings["data"], settings["score"], settings["teacher"], settings["adapter"]):
        for key in ("output", "path", "model", "data", "vectors", "start"):
            if isinstance(value := table.get(key), str):
                table[key] = _shown(value)
            elif key == "model" and value is not None:  # several teachers
                table[key] = [_shown(part) for part in value]
    return settings


def _shown(value: str) -> str:
    return Path(value).name if Path(value).is_absolute() else value


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _licence(transformer: EchoTransformer) -> str | None:
    """Return the licence of the base: of a model in a package, or in its card, if the card lies beside the weights."""
    base = transformer.base
    if base is not None and base.origin in ("bundled", "package"):
        known = PACKAGED.get(str(base.model))
        return known.licence.lower() if known else "apache-2.0"
    folder = transformer.weights_folder
    for path in (folder / "README.md", folder.parent / "README.md"):
        if path.is_file():
            try:
                return (metadata_load(path) or {}).get("license")
            except (ValueError, OSError):
                return None
    return None


def _row(*cells: object) -> str:
    """Format a row of a Markdown table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
