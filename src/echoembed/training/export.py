"""The trained model, as a folder that ``echoembed.load`` takes: an adapter beside its base, or merged and whole.

Both are written whole or not at all, with a card that says how they were made (``card.py``).
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
    """A run's curves could not be drawn."""


def finish(
    model: SentenceTransformer, config: TrainConfig, folder: Path, *, rows: Mapping[str, int] | None = None
) -> Path:
    """Save the trained model as ``folder/model``, and draw the run's curves beside it.

    Args:
        model: As it was trained, with LoRA or without; left as it is.
        config: The run's configuration, in force.
        folder: The run's; its ``config.json``, ``log.jsonl`` and ``scores.jsonl`` go into the card.
        rows: Rows of each data set, for the card; None where they are not known.

    Returns:
        The model's folder; one that was there is replaced.

    Raises:
        FileError: If it cannot be written.
        ModelError: If an adapter is to be saved and there is none, or weights are not finite.
    """
    pictures: list[Path] = []
    try:
        pictures = curves.draw(folder)
    except errors.LibraryError as error:  # matplotlib is not there: no reason to lose the model
        warnings.warn(f"The curves were not drawn: {error}", CurvesWarning, stacklevel=2)
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
    """Write a model that is being trained where ``echoembed.load`` takes it from.

    Args:
        model: As it is now; left so.
        config: The run's configuration, in force; its ``save`` says in which form.
        target: The folder to write; one that is there is replaced.
        run: The run's folder; the configuration's ``output`` unless given.
        rows: Rows of each data set, for the card.
        pictures: Pictures that the card shows.

    Returns:
        The folder.

    Raises:
        FileError: If it cannot be written.
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
        for picture in pictures or []:
            shutil.copyfile(picture, unfinished / picture.name)
        shown = [picture.name for picture in pictures or []]
        text = card(model, config, run or Path(config.output), recipe=recipe, rows=rows or {}, pictures=shown)
        (unfinished / CARD).write_text(text, encoding="utf-8")
    return target


def trained_recipe(recipe: Recipe, config: TrainConfig) -> Recipe:
    """The recipe that goes with the trained weights.

    Masked prediction reads plain text: its weights know the attention, and are of no template.
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
    """Make peft's file say the same for the same run, and name the base as it is called elsewhere."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert transformer.base is not None
    saved["base_model_name_or_path"] = transformer.base.model or transformer.name
    saved["inference_mode"] = True
    if transformer.cut:  # ends of names would fit the layers of the base that are gone here
        layers = [name for name, module in transformer.model.named_modules() if hasattr(module, "lora_A")]
        saved["target_modules"] = layers
    if isinstance(saved["target_modules"], list):  # a set, to peft
        saved["target_modules"] = sorted(saved["target_modules"])
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")
