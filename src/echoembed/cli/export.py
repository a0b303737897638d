"""``echoembed export``: models as folders for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli import session
from echoembed.cli.groups import ModelOptions, with_model

EPILOG = opt.examples("echoembed export Qwen/Qwen3-0.6B qwen-echo --recipe echo --self-contained")


def export(
    options: ModelOptions,
    model_name: Annotated[str, typer.Argument(metavar="MODEL", help="Name on the Hugging Face hub, or a folder.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; must not exist.")],
    self_contained: Annotated[
        bool,
        typer.Option(
            "--self-contained",
            help="Carry the code along: plain sentence-transformers reads the folder, with trust_remote_code=True.",
        ),
    ] = False,
    bare: Annotated[
        Literal["query", "document"] | None,
        typer.Option(
            help="Template that tools use which do not say query or document. Default: query.", show_default=False
        ),
    ] = None,
    overwrite: opt.Overwrite = False,
    recipe: opt.Recipe = None,
) -> None:
    """Save a model with its recipe as a folder for other tools.

    Without --self-contained the folder needs echoembed to be installed: echoembed.load reads it, and
    sentence-transformers with trust_remote_code=True. Loaders that would ignore the recipe refuse both.
    """
    options = with_model(options, model_name)
    session.check_names(options, [recipe])
    model = session.load(options, recipe)
    if bare is not None:
        model.default_prompt_name = bare
    if self_contained:
        from echoembed.integrations.export import export_self_contained

        export_self_contained(model, folder, overwrite=overwrite)
    else:
        from echoembed import save

        save(model, folder, overwrite=overwrite)
    out.note(f"exported → {folder}")
