"""``echoembed serve``: a model over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from echoembed.cli import groups, session
from echoembed.cli import options as opt

EPILOG = opt.examples(
    "echoembed serve --dtype auto",
    "echoembed serve Qwen/Qwen3-0.6B -r echo-last --port 9000",
    "echoembed serve --host 0.0.0.0 --api-key-file keys.txt",
)
_PANEL = "Serving"


def serve(
    options: groups.ModelOptions,
    name: opt.ModelArgument = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=_PANEL)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free port.", rich_help_panel=_PANEL)] = 8080,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File of API keys, one per line; ECHOEMBED_API_KEY adds another. Needed to serve other machines.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    served_name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of the model in requests; may be repeated. Default: the name of MODEL.", rich_help_panel=_PANEL
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name that requests without a key may use, besides localhost; may be repeated.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="Most texts in a request.", rich_help_panel=_PANEL)] = 2048,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens in a request, and in all waiting requests together. Default: those of the largest "
            "request.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds after which a request ends with an error.", rich_help_panel=_PANEL)
    ] = 300.0,
    log_level: Annotated[
        Literal["info", "warning", "error"], typer.Option(help="info logs every request.", rich_help_panel=_PANEL)
    ] = "info",
    recipe: opt.Recipe = None,
) -> None:
    """Serve a model over HTTP to clients of OpenAI, TEI, Cohere, voyage and Ollama.

    Open the printed address in a browser for a page that shows what the model reads. GET /openapi.json lists the
    routes. Without an API key, only this machine is served.
    """
    options = groups.with_model(options, name)
    session.check_names(options, [recipe])
    from echoembed import versions

    with versions.needed("starlette", "uvicorn", "orjson", "prometheus-client", extra="serve", purpose="Serving"):
        from echoembed.server import logs
        from echoembed.server.settings import Keys, Limits, Settings

    settings = Settings(
        host=host,
        port=port,
        keys=Keys.read(api_key_file),
        names=tuple(served_name or ()),
        hosts=tuple(allow_host or ()),
        limits=Limits(texts=max_texts, request_tokens=max_tokens, seconds=timeout),
    )
    from echoembed.server.listen import Server, bind

    listener = bind(settings)
    loaded = session.load(options, recipe)
    logs.start(log_level)
    server = Server(loaded, settings)
    raise typer.Exit(server.run_on(listener, ready=lambda address: typer.echo(f"serving on {address}")))
