"""Structured logs: one JSON object a line, with request ids, but never with texts, keys or other input of clients."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from itertools import count

LOGGER = logging.getLogger("echoembed.server")
# uvicorn warns of requests that are not HTTP, which ``Connection`` logs, and advises to install libraries.
LEVELS = {"uvicorn.error": "ERROR", "asyncio": "WARNING"}
_PROCESS = uuid.uuid4().hex[:16]
_NUMBERS = count(1)
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class JsonLines(logging.Formatter):
    """Writes a record's fields; of an exception, type and lines of code, not the message: it may quote a text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            entry["error"] = record.exc_info[0].__name__
            entry["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(entry)


def start(level: str = "info") -> None:
    """Send our log and uvicorn's to standard error, each line a JSON object."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("echoembed.server", *LEVELS):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(LEVELS.get(name, level.upper()))
    # uvicorn's access log has paths and query strings, which may contain anything.
    logging.getLogger("uvicorn.access").disabled = True


def event(
    name: str, fields: Mapping[str, object] | None = None, *, error: BaseException | None = None, **more: object
) -> None:
    """Log an event; with ``error``, at the level of errors."""
    level = logging.INFO if error is None else logging.ERROR
    LOGGER.log(level, name, extra={"fields": {**(fields or {}), **more}}, exc_info=error)


def request_id(given: str | None) -> str:
    """Return the client's own id if it has only harmless characters, else a new id."""
    return given if given and _SAFE_ID.fullmatch(given) else f"{_PROCESS}{next(_NUMBERS):016x}"
