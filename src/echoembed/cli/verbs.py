"""All verbs as one program, and the line and the exit code of every error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from echoembed import __version__
from echoembed.cli import (
    calibrate,
    compare,
    corpus,
    data,
    embed,
    export,
    info,
    interrupts,
    recipes,
    reproduce,
    search,
    serve,
    similarity,
    train,
    tune,
)
from echoembed.cli import (
    eval as evaluate,
)
from echoembed.cli.groups import with_options
from echoembed.cli.options import examples
from echoembed.cli.output import fail, let_go_of_standard_output
from echoembed.errors import EchoembedError

DEBUG = "ECHOEMBED_DEBUG"
EPILOG = (
    examples(
        'echoembed similarity "A cat sat." "A feline rested." "Stocks fell."',
        "echoembed embed notes.txt -o notes.parquet",
    )
    + "\n\n[bold]Exit codes[/bold]\n"
    + "\n".join(
        [
            "  0    success",
            "  1    something is wrong with the input or the model",
            "  2    wrong usage",
            "  130  interrupted (143: terminated); the last line says what was kept",
        ]
    )
)


class _Verbs(TyperGroup):
    """Turns errors into a line on standard error and an exit code."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with interrupts.told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        try:
            with interrupts.told():
                return super().invoke(ctx)
        except EchoembedError as error:
            fail(str(error))
            raise typer.Exit(1) from error
        except BrokenPipeError as error:  # the reader of the pipe has closed it, as `head` does
            let_go_of_standard_output()
            raise typer.Exit(0) from error
        except Exception as error:
            if os.environ.get(DEBUG) or isinstance(error, typer.Abort) or hasattr(error, "exit_code"):
                raise
            fail(_explained(error))
            raise typer.Exit(1) from error
        except BaseException as error:  # a panic of the tokenizer's Rust code is no Exception
            if os.environ.get(DEBUG) or type(error).__name__ != "PanicException":
                raise
            fail(f"The tokenizer failed on a text: {error}. Leave that text out, or use another tokenizer.json.")
            raise typer.Exit(1) from error


def _explained(error: Exception) -> str:
    """Put an error that is not one of ours into a sentence."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # a GPU's, by torch
        fewer = "--pack-tokens (with --engine padded, --batch-size) or --budget"
        return f"Memory ran out. Lower {fewer}, or use a smaller model."
    return f"{type(error).__name__}: {error}. This may be a fault of echoembed: {DEBUG}=1 shows where it is."


app = typer.Typer(
    name="echoembed",
    cls=_Verbs,
    help="Text embeddings from language models that read the text twice.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _add(to: typer.Typer, name: str, verb: Callable[..., None], *, needs_input: bool) -> None:
    """Register a verb, with its docstring in paragraphs as its help."""
    paragraphs = (verb.__doc__ or "").replace("\n    ", "\n").strip().split("\n\n")
    help_ = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
    to.command(name, help=help_, epilog=sys.modules[verb.__module__].EPILOG, no_args_is_help=needs_input)(
        with_options(verb)
    )


for _name, _verb, _needs_input in (
    ("embed", embed.embed, True),
    ("similarity", similarity.similarity, True),
    ("compare", compare.compare, True),
    ("eval", evaluate.evaluate, False),
    ("calibrate", calibrate.calibrate, True),
    ("data", data.data, True),
    ("train", train.train, True),
    ("tune", tune.tune, True),
    ("reproduce", reproduce.reproduce, True),
    ("serve", serve.serve, False),
    ("search", search.search, True),
    ("export", export.export, True),
    ("recipes", recipes.recipes, False),
    ("info", info.info, False),
):
    _add(app, _name, _verb, needs_input=_needs_input)
_corpus = typer.Typer(help="Build corpora: millions of texts to a folder of vectors.", no_args_is_help=True)
_add(_corpus, "build", corpus.build, needs_input=True)
_add(_corpus, "info", corpus.info, needs_input=True)
app.add_typer(_corpus, name="corpus")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"echoembed {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Text embeddings from language models that read the text twice."""
