"""``echoembed calibrate``: from a model and texts without labels to a calibrated model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoembed import errors
from echoembed.cli import groups, session
from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli.groups import ModelOptions, with_model
from echoembed.progress import Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from echoembed.texts import TextReader

EPILOG = opt.examples(
    "echoembed calibrate smollm2-135m notes.txt -o smollm2-notes",
    "echoembed calibrate Qwen/Qwen3-0.6B docs.jsonl --column body --calibration mean -o qwen-docs",
    "echoembed embed more-notes.txt -m smollm2-notes -o more-notes.npy",
)


def calibrate(
    options: ModelOptions,
    model_name: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Name on the Hugging Face hub, folder, GGUF file, or tiny."),
    ],
    texts: groups.TextOptions,
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; must not exist.")],
    calibration: Annotated[
        str | None,
        typer.Option(
            help="mean, z-score, components-K, z-components-K, whiten-K, or spectrum-R, which reads no "
            "texts; for all prompts of the recipe. Default: the recipe's own, else z-score."
        ),
    ] = None,
    overwrite: opt.OverwriteModel = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show neither progress nor a closing line.")] = False,
    recipe: opt.Recipe = None,
) -> None:
    """Fit a calibration of the model's vectors on texts, and save the model with it.

    Some hundreds of texts like those that you will embed are enough; they need no labels. Do not use texts on which you
    will evaluate the result. Pass the folder to --model or to echoembed.load.
    """
    from echoembed import save
    from echoembed.recipe import CALIBRATIONS, calibration_parts, find_recipe

    options = with_model(options, model_name)
    # 1. Report everything that can be wrong before the model reads the first text.
    session.check_target(
        folder, overwrite=overwrite, inputs=[*(texts.inputs or ()), *session.inputs_of(options, recipe)]
    )
    session.check_names(options, [recipe])
    row = session.recipe_named(recipe, options.recipes_file)
    named = None if row is None else find_recipe(row)
    if calibration is not None and calibration_parts(calibration) in (None, ("none", 0)):
        name = "echo" if named is None else named.name
        raise errors.recipe_bad_field(name, "calibration", calibration, CALIBRATIONS.removeprefix("none, "))
    own = [] if named is None else [prompt.calibration for prompt in named.prompts if prompt.calibration != "none"]
    reads = any(not kind.startswith("spectrum-") for kind in ([calibration] if calibration else own or [""]))
    if not reads and (texts.inputs or texts.text):
        kinds = ", ".join(dict.fromkeys([calibration] if calibration else own))
        raise typer.BadParameter(f"{kinds} reads no texts; leave them out", param_hint="TEXT|FILE|-...")
    reader = texts.reader() if reads else None
    if reader is not None:
        session.check_texts(reader, quiet=quiet)
    model = session.load(options, recipe, on_overflow=texts.on_overflow, calibrated=False)
    from echoembed.model.calibrate import calibrate as fit
    from echoembed.model.calibrate import calibrated_under, with_calibrations_of
    from echoembed.model.transformer import transformer_of

    if transformer_of(model).int8:
        raise errors.ModelError.bad_value("dtype", "int8", "float32, bfloat16 or float16, to save the model")
    # 2. Read the texts once.
    cut: list[int] = []
    expected = reader.expected if reader is not None else (lambda: None)
    told = _losses_told(reader, cut, texts.on_overflow)
    with told, Progress(expected, what="calibrating", shown=not quiet) as progress:
        given = _readable(reader, model, cut)
        if named is not None and own and calibration is None:
            under = with_calibrations_of(transformer_of(model).recipe, named)
            calibrated = calibrated_under(model, under, given, progress=progress)
        else:
            calibrated = fit(model, given, calibration, progress=progress)
    # 3. Save the model with its calibration.
    save(calibrated, folder, overwrite=overwrite)
    if not quiet:
        kinds = ", ".join(prompt.calibration for prompt in transformer_of(calibrated).recipe.prompts)
        read = 0 if reader is None else reader.count - reader.skipped
        on = f"on {read:,} texts " if read else ""
        out.note(f"calibrated ({kinds}) {on}in {progress.seconds:.1f} s → {folder}")


@contextlib.contextmanager
def _losses_told(reader: TextReader | None, cut: list[int], on_overflow: str) -> Iterator[None]:
    """Warn of texts that were left out or cut in the block, also where it fails: they may be the cause."""
    failure: errors.EchoembedError | None = None
    try:
        yield
    except errors.EchoembedError as error:
        failure = error
    if reader is not None:
        session.report_skipped(reader)
    if cut and on_overflow == "warn":
        out.warn(f"{out.cut(len(cut), sum(cut))} Raise --budget.")
    if failure is not None:
        raise failure


def _readable(reader: TextReader | None, model: SentenceTransformer, cut: list[int]) -> Iterator[str]:
    """Yield the texts that the model can read, and add the tokens cut from each to ``cut``."""
    from echoembed.model.transformer import transformer_of

    for item in reader or ():
        try:
            [prompt] = transformer_of(model).reader.render([item.text])
        except errors.TextError as error:
            assert reader is not None
            reader.leave_out(error)
        else:
            cut += [prompt.dropped] * (prompt.dropped > 0)
            yield item.text
