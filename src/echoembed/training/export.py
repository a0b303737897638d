"""The trained model as a folder for ``echoembed.load``: an adapter without its base, or a merged model.

Either is written whole or not at all, with a card that says how it was made (``card.py``).
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from echoembed import errors
from echoembed.model import live
from echoembed.model.backbone import quiet
from echoembed.model.save import CARD, whole_folder
from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.model.variants import under
from echoembed.recipe import Recipe
from echoembed.sources import adapters
from echoembed.sources.files import ADAPTER_CONFIG
from echoembed.training import curves
from echoembed.training.card import card
from echoembed.training.config import TrainConfig
from echoembed.training.run_folder import MODEL


class CurvesWarning(UserWarning):
    """Warns that a run's curves could not be drawn."""


def finish(
    model: SentenceTransformer, config: TrainConfig, folder: Path, *, rows: Mapping[str, int] | None = None
) -> Path:
    """Save the trained model as ``folder/model``, and draw the run's curves beside it.

    Args:
        model: The trained model, with or without LoRA; not changed.
        config: The run's configuration in force.
        folder: The run's folder; its ``config.json``, ``log.jsonl`` and ``scores.jsonl`` go into the card.
        rows: The number of rows of each data set, for the card; None if not known.

    Returns:
        The model's folder; an existing one is replaced.

    Raises:
        FileError: If the folder cannot be written.
        ModelError: If an adapter is to be saved and there is none, or weights are not finite.
    """
    pictures: list[Path] = []
    try:
        pictures = curves.draw(folder)
    except Exception as error:  # without matplotlib, or whatever fails there, the model must still be saved
        kind = "" if isinstance(error, errors.EchoembedError) else f"{type(error).__name__}: "
        warnings.warn(f"The curves were not drawn: {kind}{error}", CurvesWarning, stacklevel=2)
    return save_model(model, config, folder / MODEL, run=folder, rows=rows, pictures=pictures)


def save_model(
    model: SentenceTransformer,
    config: TrainConfig,
    target: Path,
    *,
    run: Path | None = None,
    rows: Mapping[str, int] | None = None,
    pictures: list[Path] | None = None,
) -> Path:
    """Write a model in training as a folder for ``echoembed.load``.

    Args:
        model: The model as it is now; not changed.
        config: The run's configuration in force; its ``save`` decides the form.
        target: The folder to write; an existing one is replaced.
        run: The run's folder; None for the configuration's ``output``.
        rows: The number of rows of each data set, for the card.
        pictures: Pictures to show in the card.

    Returns:
        The folder.

    Raises:
        FileError: If the folder cannot be written.
        ModelError: If an adapter is to be saved and there is none, or weights are not finite.
    """
    transformer = transformer_of(model)
    if not all(bool(torch.isfinite(weight).all()) for weight in transformer.model.parameters() if weight.requires_grad):
        raise errors.trained_weights_not_finite(transformer.name)
    recipe = trained_recipe(transformer.recipe, config)
    with whole_folder(target, overwrite=True) as unfinished, quiet(bar=False):
        if config.save == "adapter":
            _write_adapter(model, recipe, unfinished)
        else:
            under(model, recipe).save_pretrained(str(unfinished), create_model_card=False)
            for path in unfinished.rglob(live.FILE):  # from which training would go on: this model is finished
                path.unlink()
        for picture in pictures or []:
            shutil.copyfile(picture, unfinished / picture.name)
        names = [picture.name for picture in pictures or []]
        text = card(model, config, run or Path(config.output), recipe=recipe, rows=rows or {}, pictures=names)
        (unfinished / CARD).write_text(text, encoding="utf-8")
    return target


def trained_recipe(recipe: Recipe, config: TrainConfig) -> Recipe:
    """Return the recipe that belongs to the trained weights.

    After masked prediction it does not count as trained: such weights have learned bidirectional attention on plain
    text, and no template.
    """
    budget = config.finished_budget or recipe.budget
    return replace(recipe, trained=config.objective != "mntp", checkpoint="", adapters=(), budget=budget)


def _write_adapter(model: SentenceTransformer, recipe: Recipe, folder: Path) -> None:
    """Write peft's two files and ours."""
    transformer = transformer_of(model)
    if not getattr(transformer.model, "_hf_peft_config_loaded", False) or transformer.base is None:
        raise errors.adapter_nothing_to_save(transformer.name)
    transformer.model.save_pretrained(folder)
    _tidy(folder / ADAPTER_CONFIG, transformer)
    adapters.write_file(
        folder,
        recipe=recipe,
        normalize=any(isinstance(module, Normalize) for module in model),
        base=transformer.base,
    )


def _tidy(path: Path, transformer: EchoTransformer) -> None:
    """Make peft's file the same for the same run, and give the base its public name."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    assert transformer.base is not None
    settings["base_model_name_or_path"] = transformer.base.model or transformer.name
    settings["inference_mode"] = True
    if transformer.cut:  # full names, as the ends of names would also match layers of the base that are cut off here
        layers = [name for name, module in transformer.model.named_modules() if hasattr(module, "lora_A")]
        settings["target_modules"] = layers
    if isinstance(settings["target_modules"], list):  # peft writes a set, in any order
        settings["target_modules"] = sorted(settings["target_modules"])
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
