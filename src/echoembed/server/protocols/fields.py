"""Parts that all protocols share: fields for texts, templates and truncation, and the encoding of vectors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema

from echoembed import errors
from echoembed.server.service import Ask, Embedded, Service

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from echoembed.recipe import Kind

Encoding = Literal["float", "base64"]

_QUERY = ("query", "search_query", "retrieval_query", "question_answering", "fact_verification")
# Symmetric tasks are read with the query template, as in the paper.
_SYMMETRIC = ("classification", "clustering", "separation", "semantic_similarity", "text_matching", "sts", "similarity")
_DOCUMENT = ("document", "search_document", "retrieval_document", "retrieval_passage", "passage", "corpus", "text")
KIND_NAMES: dict[str, Kind] = {
    **dict.fromkeys((*_QUERY, *_SYMMETRIC), "query"),
    **dict.fromkeys(_DOCUMENT, "document"),
}
"""The services' names for kinds of texts → the template; in lower case, with underscores for dots and hyphens."""


@dataclass(frozen=True)
class Answer:
    """An answer: content for JSON, which may hold NumPy arrays; headers; and numbers for the log."""

    content: object
    headers: dict[str, str] = field(default_factory=dict)
    tally: dict[str, int] = field(default_factory=dict)


def as_texts(value: object, name: str) -> list[str]:
    """Return a text or a list of texts as a list; ``{"text": …}`` is a text too, as Jina's clients write one.

    Raises:
        RequestError: If the value is something else; token ids get a message of their own.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise errors.request_field(name, value, "a text, or a list of texts")
    texts: list[Any] = [text_of(entry) for entry in value]
    for place, text in enumerate(texts):
        if isinstance(text, str):
            continue
        ids = text if isinstance(text, list) else [text]
        if ids and all(type(id_) is int for id_ in ids):
            raise errors.request_token_ids(name)
        raise errors.request_field(f"{name}[{place}]", text, "a text")
    return texts


def text_of(entry: object) -> object:
    """Return the text of an object with a field for the text and no other; any other value as it is."""
    if isinstance(entry, dict) and len(entry) == 1 and isinstance(text := entry.get("text"), str):
        return text
    return entry


_TEXTS_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})


def texts_of(name: str) -> Any:
    """Return the type of a field with a text or a list of texts."""

    def checked(value: object) -> object:
        return value if isinstance(value, str) else as_texts(value, name)

    return Annotated[str | list[str], BeforeValidator(checked), _TEXTS_SCHEMA]


class Body(BaseModel):
    """A request, read strictly: a number in quotes is a text, and an unknown field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())

    kind_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that may name a template."""


class Texts(Body):
    """Our own fields for how texts are read; every route that embeds has them."""

    model: str | None = None
    """The served model; its name may end in :query or :document, to choose a template."""
    instruction: str | None = None
    """The text in place of the recipe's {instruction}."""
    truncate: bool | None = None
    """Whether texts over the limit are cut; otherwise, they are refused."""
    dimensions: int | None = None
    """How many leading dimensions to return, scaled to length 1 again."""

    def ask(self, service: Service, value: str | list[str], param: str, **changes: Any) -> Ask:
        """Return the texts of a field with the request's settings."""
        settings: dict[str, Any] = {
            "kind": kind_of(service, self),
            "instruction": self.instruction or None,
            "truncate": bool(self.truncate),
            "dimensions": self.dimensions,
            **changes,
        }
        if settings["kind"] is None:
            settings["kind"], settings["instruction"] = service.encoder.unnamed(settings["instruction"])
        return Ask(texts=as_texts(value, param), param=param, many=not isinstance(value, str), **settings)


class KindTexts(Texts):
    """``Texts`` with the services' fields that say whether texts are queries or documents."""

    kind_fields: ClassVar[tuple[str, ...]] = ("task", "input_type", "prompt_name")

    task: str | None = None
    """query or document; input_type and prompt_name mean the same."""
    input_type: str | None = None
    prompt_name: str | None = None


def kind_of(service: Service, body: Body) -> Kind | None:
    """Return the template that a request names in any of its fields; None if it names none.

    Raises:
        RequestError: If the model is not served, a name is unknown, or two fields disagree.
    """
    kind: Kind | None = None
    kind_param = "model"
    if (name := getattr(body, "model", None)) is not None:
        kind = service.kind_of_model(name)
    for param in body.kind_fields:
        value = getattr(body, param, None)
        if value is None:
            continue
        other = KIND_NAMES.get(value.lower().replace(".", "_").replace("-", "_"))
        if other is None:
            allowed = f"query, document, or another service's name for one of them: {', '.join(KIND_NAMES)}"
            raise errors.request_field(param, value, allowed)
        if kind not in (None, other):
            raise errors.request_kinds_differ(param, other, kind_param)
        kind, kind_param = other, param
    return kind


def agreed(body: Body, *names: str) -> Any:
    """Return the value of fields that mean the same: that of the first which is set, or None if none is.

    Raises:
        RequestError: If another of them is set to another value.
    """
    given = [(name, value) for name in names if (value := attrgetter(name)(body)) is not None]
    for name, value in given[1:]:
        if value != given[0][1]:
            raise errors.request_fields_differ(name, value, *given[0])
    return given[0][1] if given else None


def read(model: type[Body], data: dict[str, Any]) -> Any:
    """Read a request's JSON object into its model.

    Raises:
        RequestError: For the first field that is wrong or unknown; if there is none, for one that is missing.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A field that is missing comes last: another, which the route does not have, may have been sent in its place.
        fault = min(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
    where = _path(fault["loc"])
    if fault["type"] == "missing":
        raise errors.request_field_missing(where)
    if fault["type"] == "extra_forbidden":
        raise errors.request_field_unknown(where, model.model_fields)
    allowed = fault["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    allowed = {"True": "true", "False": "false"}.get(allowed, allowed)
    raise errors.request_field(where, fault["input"], allowed)


def _path(parts: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def written(vectors_ND: NDArray[np.float32], encoding: Encoding) -> list[Any]:
    """Return vectors for JSON: arrays of numbers, or the bytes of little-endian float32 in base64."""
    if encoding == "float":
        return list(vectors_ND)
    return [base64.b64encode(vector_D.astype("<f4").tobytes()).decode("ascii") for vector_D in vectors_ND]


def answer_of(service: Service, content: object, *embedded: Embedded, headers: dict[str, str] | None = None) -> Answer:
    """Make an answer, with headers for facts without a field in any protocol: the fingerprint, and how much was cut."""
    cuts = [count for part in embedded for count in part.cuts]
    all_headers = {"X-Echoembed-Fingerprint": str(service.encoder.facts["fingerprint"]), **(headers or {})}
    if cuts:
        all_headers |= {"X-Echoembed-Truncated-Texts": str(len(cuts)), "X-Echoembed-Truncated-Tokens": str(sum(cuts))}
    tally = {
        "texts": sum(len(part.prompts) for part in embedded),
        "tokens": sum(part.tokens for part in embedded),
        "truncated_texts": len(cuts),
        "model_ms": round(1000 * max(part.seconds for part in embedded)),
    }
    return Answer(content, all_headers, tally)
