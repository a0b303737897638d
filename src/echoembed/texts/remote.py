"""Embedding by a running server, with the interface of ``Embedder``, without loading a model.

Beside numpy it needs only the standard library, so that commands start quickly.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import numpy as np
from numpy.typing import NDArray

from echoembed import errors
from echoembed.texts.embedder import Cuts
from echoembed.texts.rows import Item
from echoembed.texts.writer import Stamp

_TRIES = 5
_SECONDS = 600.0
_LONGEST_WAIT = 10
_OVER_BUDGET = "text_too_long"
_ITS_TEXTS = ("invalid_text", _OVER_BUDGET, "model_failed")
_KEY_VARIABLE = "ECHOEMBED_API_KEY"
_KEY_LENGTH = 16  # as the server demands


class _TooManyTokensError(errors.ServerError):
    """Raised within this file for a request with more tokens than the server takes in one."""


@dataclass(kw_only=True)
class RemoteEmbedder:
    """A server, and the settings with which it reads the texts of this run.

    Args:
        url: The address of ``echoembed serve``; its key is read from the environment variable ECHOEMBED_API_KEY.
        kind: The recipe's template for the texts.
        instruction: What fills the template's ``{instruction}``; None for the recipe's own.
        truncate: Whether texts over the limit are cut.

    Attributes:
        cuts: Counts of what ``encode`` has cut so far.
    """

    url: str
    kind: Literal["query", "document"] = "query"
    instruction: str | None = None
    truncate: bool = True
    cuts: Cuts = field(default_factory=Cuts, init=False)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed texts: ``vectors_ND`` in float32, in order.

        Raises:
            TextError: If a text cannot be embedded.
            ServerError: If the server cannot be reached, now serves another model, or the key cannot be one.
        """
        return np.concatenate([self._in_parts(part) for part in self._requests(texts)])

    def faults(self, items: list[Item]) -> list[errors.TextError | None]:
        """Find the texts that cannot be embedded, by a request for each: an error that names its place, or None."""
        before = replace(self.cuts)  # the good texts will be sent again, and counted then
        faults = [self._fault(item) for item in items]
        self.cuts = before
        return faults

    def _fault(self, item: Item) -> errors.TextError | None:
        try:
            self._vectors([item.text])
        except errors.TextError as error:
            fault = errors.text_unusable(item.where, str(error))
            return errors.OverBudgetError(str(fault)) if isinstance(error, errors.OverBudgetError) else fault
        return None

    def stamp(self) -> Stamp:
        """Return the stamp that is stored with the vectors."""
        facts = self._info["echoembed"]
        has_place = self._has_place(facts)
        of_recipe = facts.get("instruction", "")
        return Stamp(
            model=str(facts["model"]),
            revision=str(facts["revision"]),
            recipe=str(facts["recipe"]),
            fingerprint=str(facts["fingerprint"]),
            kind=self.kind,
            instruction=str(self.instruction or of_recipe) if has_place else "",
            numerics=str(facts.get("numerics", "")),
        )

    @cached_property
    def _info(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask("GET", "/info")[0]
        if not isinstance(answer, dict) or not isinstance(answer.get("echoembed"), dict):
            raise errors.remote_refused(self.url, 200, "no description of a model")
        if self.instruction and not self._has_place(facts := answer["echoembed"]):
            raise errors.instruction_unused(str(facts["recipe"]), self.kind, self.instruction)
        return answer

    def _has_place(self, facts: dict[str, Any]) -> bool:
        """Return whether the served recipe has a place for an instruction."""
        return "{instruction" in facts[f"{self.kind}_template"]

    def _requests(self, texts: list[str]) -> Iterator[list[str]]:
        """Split the texts into requests within the server's limits."""
        most, room = int(self._info["max_client_batch_size"]), int(self._info["max_body_bytes"]) // 2
        part: list[str] = []
        size = 0
        for text in texts:
            length = len(json.dumps(text))
            if part and (len(part) == most or size + length > room):
                yield part
                part, size = [], 0
            part.append(text)
            size += length
        yield part

    def _in_parts(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed texts by one request, or by several if the server finds too many tokens in it."""
        try:
            return self._vectors(texts)
        except _TooManyTokensError:
            if len(texts) == 1:
                raise
        middle = len(texts) // 2  # only the server can count tokens
        return np.concatenate([self._in_parts(texts[:middle]), self._in_parts(texts[middle:])])

    def _vectors(self, texts: list[str]) -> NDArray[np.float32]:
        body: dict[str, Any] = {"input": texts, "encoding_format": "base64", "task": self.kind}
        body |= {"truncate": self.truncate, "instruction": self.instruction}
        most = int(self._info["max_body_bytes"])
        if len(texts) == 1 and (size := len(json.dumps(body))) > most:
            raise errors.remote_text_too_large(size, most)
        answer, headers = self._ask("POST", "/v1/embeddings", body)
        before, now = self._info["echoembed"]["fingerprint"], headers.get("X-Echoembed-Fingerprint", "none")
        if before != now:
            raise errors.remote_changed(self.url, str(before), now)
        self.cuts.texts += int(headers.get("X-Echoembed-Truncated-Texts", "0"))
        self.cuts.tokens += int(headers.get("X-Echoembed-Truncated-Tokens", "0"))
        rows = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in answer["data"]]
        return np.stack(rows).astype(np.float32)

    def _ask(self, method: str, path: str, body: object = None) -> tuple[Any, Any]:
        """Return the server's answer and its headers; an overloaded server is asked again after the time it names."""
        for left in reversed(range(_TRIES)):
            status, headers, text = self._exchange(method, path, body)
            if left and "Retry-After" in headers and status in (429, 503):
                time.sleep(_wait(headers["Retry-After"]))
                continue
            try:
                answer = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise errors.remote_refused(self.url, status, "something that is no JSON") from error
            if status == 200:
                return answer, headers
            fault = answer.get("error") if isinstance(answer, dict) else None
            message = fault.get("message") if isinstance(fault, dict) else fault
            code = fault.get("code") if isinstance(fault, dict) else None
            if code in _ITS_TEXTS:
                raise (errors.OverBudgetError if code == _OVER_BUDGET else errors.TextError)(str(message))
            break
        refused = errors.remote_refused(self.url, status, str(message or "nothing more"))
        raise _TooManyTokensError(*refused.args) if code == "too_many_tokens" else refused

    def _exchange(self, method: str, path: str, body: object) -> tuple[int, Any, bytes]:
        headers = {"Content-Type": "application/json"}
        if key := _key():
            headers["Authorization"] = f"Bearer {key}"
        try:
            parts = web_address(self.url if "://" in self.url else f"http://{self.url}")
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            connection = kind(parts.hostname or "", parts.port, timeout=_SECONDS)
            try:
                content = None if body is None else json.dumps(body).encode()
                connection.request(method, parts.path.rstrip("/") + path, content, headers)
                answer = connection.getresponse()
                return answer.status, answer.headers, answer.read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            shown = self.url.rpartition("@")[2]  # without a password
            raise errors.remote_unreachable(shown, str(error) or type(error).__name__) from error


def web_address(url: str) -> SplitResult:
    """Return the parts of a server's address, all of which a request uses.

    Raises:
        ValueError: If it is no address of the web, or has a part that would be left out.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it begins with neither http:// nor https://")
    if not parts.hostname:
        raise ValueError("it names no host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("a user, a password, a query or a fragment in it would not be sent")
    return parts


def _key() -> str:
    """Return the server's key; empty if there is none. A key that no server takes could break the header, and show."""
    key = os.environ.get(_KEY_VARIABLE, "")
    if key and (len(key) < _KEY_LENGTH or not all("!" <= character <= "~" for character in key)):
        raise errors.server_keys(_KEY_VARIABLE, "the key is shorter, or holds another character")
    return key


def _wait(retry_after: str) -> float:
    """Return the seconds that a server asks for, up to the longest wait; a date, which is allowed too, means that."""
    try:
        return min(_LONGEST_WAIT, max(0.0, float(retry_after)))
    except ValueError:
        return _LONGEST_WAIT
