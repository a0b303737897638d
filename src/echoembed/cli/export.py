"""``echoembed export``: models as folders for other tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli import session
from echoembed.cli.groups import ModelOptions, with_model

EPILOG = opt.examples(
    "echoembed export Qwen/Qwen3-0.6B qwen-echo --recipe echo --self-contained",
    "echoembed export Qwen/Qwen3-0.6B qwen-eol --recipe prompteol --stock",
    "echoembed export smollm2-135m smollm2-notes --gguf",
)


@dataclass(frozen=True, kw_only=True)
class SavedOptions(ModelOptions):
    """The model, and what of it is saved: not how it computes."""

    engine: opt.Engine | None = field(default=None, init=False)
    deterministic: bool = field(default=False, init=False)
    pack_tokens: int | None = field(default=None, init=False)


def export(
    saved: SavedOptions,
    model_name: Annotated[str, typer.Argument(metavar="MODEL", help="Name on the Hugging Face hub, or a folder.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; must not exist.")],
    self_contained: Annotated[
        bool,
        typer.Option(
            "--self-contained",
            help="Include our code: sentence-transformers loads the folder alone, with trust_remote_code=True.",
        ),
    ] = False,
    stock: Annotated[
        bool,
        typer.Option(
            "--stock",
            help="Include no code: the template becomes part of the tokenizer. For recipes that pool the last token.",
        ),
    ] = False,
    gguf: Annotated[
        bool,
        typer.Option("--gguf", help="No model, but notes: what to run in llama.cpp, with a prompt and its vector."),
    ] = False,
    bare: Annotated[
        Literal["query", "document"] | None,
        typer.Option(
            help="Template for tools that do not tell queries from documents; not with --gguf. Default: query.",
            show_default=False,
        ),
    ] = None,
    overwrite: opt.OverwriteModel = False,
    recipe: opt.Recipe = None,
) -> None:
    """Save a model with its recipe as a folder for other tools.

    Without --self-contained or --stock, the folder needs echoembed to be installed: load it with echoembed.load, or
    with sentence-transformers and trust_remote_code=True. Loaders that would ignore the recipe refuse the folder.
    """
    chosen = [
        name
        for name, is_chosen in {"--self-contained": self_contained, "--stock": stock, "--gguf": gguf}.items()
        if is_chosen
    ]
    if len(chosen) > 1:
        raise typer.BadParameter(f"{' and '.join(chosen)} exclude each other: give one of them.")
    if gguf and bare is not None:
        raise typer.BadParameter(
            "a tool that reads the notes renders each text itself; leave it out", param_hint="--bare"
        )
    options = with_model(saved, model_name)
    session.check_target(folder, overwrite=overwrite, inputs=session.inputs_of(options, recipe))
    session.check_names(options, [recipe])
    model = session.load(options, recipe)
    if bare is not None:
        model.default_prompt_name = bare
    if self_contained:
        from echoembed.integrations.export import export_self_contained

        export_self_contained(model, folder, overwrite=overwrite)
    elif stock:
        from echoembed.integrations.stock import export_stock

        export_stock(model, folder, overwrite=overwrite)
    elif gguf:
        from echoembed.integrations.llama_cpp import write_notes

        write_notes(model, folder, overwrite=overwrite)
    else:
        from echoembed import save

        save(model, folder, overwrite=overwrite)
    out.note(f"exported → {folder}")
