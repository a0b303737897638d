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
from echoembed.model.fitting import fit
from echoembed.model.transformer import transformer_of

RECIPE = "echo-tuned"


def main() -> None:
    """Fit, and write a folder for each prompt."""
    recipe = echoembed.recipes[RECIPE]
    raw = replace(recipe.without_calibrations(), name="raw", tuned_for="")
    model = transformer_of(echoembed.load(recipe.tuned_for, recipe=raw, device="cpu", dtype="float32"))
    shutil.rmtree(calibrate._SHIPPED, ignore_errors=True)
    for prompt in recipe.prompts:
        transformer = model.under(prompt)
        [calibration] = fit(transformer, calibrate.sentences())
        assert calibration is not None
        with whole_folder(calibrate._SHIPPED / calibrate._key(transformer, shipped=True)) as folder:
            calibration.save(str(folder))


if __name__ == "__main__":
    main()
