"""Fit the calibrations of ``echo-tuned`` that come with the package: ``python calibrate.py``.

They are fitted in float32 on the sentences that come with the package, and replace those in
``src/echoembed/model/fitted/``. Run this again whenever the recipe or a sentence changes.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

import echoembed
from echoembed.files import whole_folder
from echoembed.model import calibrate
from echoembed.model.beside import parts_of
from echoembed.model.fitting import fit
from echoembed.model.transformer import transformer_of

RECIPE = "echo-tuned"


def main() -> None:
    """Fit, and write a folder for each prompt."""
    recipe = replace(echoembed.recipes[RECIPE], tuned_for="")
    raw = recipe.without_calibrations()
    model = echoembed.load(echoembed.recipes[RECIPE].tuned_for, recipe=raw, device="cpu", dtype="float32")
    transformer = transformer_of(model).under(recipe)
    parts = [transformer.under(recipe.prompts[0]), *parts_of(transformer)]  # each ends at its own layer
    shutil.rmtree(calibrate._SHIPPED, ignore_errors=True)
    for part, calibration in zip(parts, fit(transformer, calibrate.sentences()), strict=True):
        assert calibration is not None
        with whole_folder(calibrate._SHIPPED / calibrate._key(part, shipped=True)) as folder:
            calibration.save(str(folder))


if __name__ == "__main__":
    main()
