"""Text Embeddings Inference, which huggingface_hub's ``InferenceClient`` and Chroma's embedding server use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from echoembed import __version__
from echoembed.server.encoder import KINDS
from echoembed.server.protocols.fields import (
    Answer,
    Body,
    Encoding,
    KindTexts,
    agreed,
    answer_of,
    read,
    texts_of,
    written,
)
from echoembed.server.service import Service, cosines, of_length_one

if TYPE_CHECKING:
    from echoembed.prompts.template import Rendered

Right = Literal["right", "Right"]


class Options(Body):
    """What older clients of Hugging Face send along; nothing in it changes a vector."""

    wait_for_model: bool | None = None
    use_cache: bool | None = None
    use_gpu: bool | None = None


class TeiEmbedBody(KindTexts):
    """``POST /embed``."""

    inputs: texts_of("inputs")  # type: ignore[valid-type]
    truncation_direction: Right = "right"
    normalize: bool = True
    encoding_format: Encoding = "float"
    options: Options | None = None


class Sentences(Body):
    """The sentences of ``/similarity``."""

    source_sentence: str
    sentences: list[str]


class Parameters(Body):
    """The settings of ``/similarity``."""

    truncate: bool | None = None
    truncation_direction: Right = "right"
    prompt_name: str | None = None


class SimilarityBody(KindTexts):
    """``POST /similarity``."""

    inputs: Sentences
    parameters: Parameters = Field(default_factory=Parameters)


class TokenizeBody(KindTexts):
    """``POST /tokenize``."""

    inputs: texts_of("inputs")  # type: ignore[valid-type]
    add_special_tokens: Literal[True] = True


async def embed(service: Service, body: TeiEmbedBody) -> Answer:
    """Embed texts; the answer is a list of vectors."""
    [answer] = await service.embed(body.ask(service, body.inputs, "inputs", normalize=body.normalize))
    scale = body.normalize and not service.encoder.scales
    vectors = of_length_one(answer.vectors) if scale else answer.vectors
    return answer_of(service, written(vectors, body.encoding_format), answer)


async def root(service: Service, data: dict[str, Any]) -> Answer:
    """Answer a post to the bare address, as ``InferenceClient`` sends: ``/embed``, or ``/similarity`` if that fits."""
    if isinstance(data.get("inputs"), dict):
        return await similarity(service, read(SimilarityBody, data))
    return await embed(service, read(TeiEmbedBody, data))


async def similarity(service: Service, body: SimilarityBody) -> Answer:
    """Compare one sentence with each of the others, by cosine."""
    both = body.model_copy(
        update={
            "truncate": agreed(body, "truncate", "parameters.truncate"),
            "prompt_name": agreed(body, "prompt_name", "parameters.prompt_name"),
        }
    )
    source, others = await service.embed(
        both.ask(service, body.inputs.source_sentence, "inputs.source_sentence"),
        both.ask(service, body.inputs.sentences, "inputs.sentences"),
    )
    cosines_N = cosines(others.vectors, source.vectors)[:, 0]
    return answer_of(service, cosines_N, source, others)


async def tokenize(service: Service, body: TokenizeBody) -> Answer:
    """Show the first prompt of each text: its tokens, which of them are pooled, and how many tokens were cut off."""
    ask = body.ask(service, body.inputs, "inputs", truncate=True)
    prompts = await service.read(ask)
    entries = await service.thread(lambda: [show(service, prompt) for prompt in prompts])
    return Answer([{"kind": ask.kind, **entry} for entry in entries])


def show(service: Service, prompt: Rendered) -> dict[str, Any]:
    """Return the tokens of a text's first prompt; ``copies`` has the span of each copy of the text."""
    start, stop = prompt.span
    tokens = [
        {**token._asdict(), "pooled": start <= at < stop} for at, token in enumerate(service.encoder.tokens(prompt))
    ]
    return {
        "prompt": prompt.text,
        "tokens": tokens,
        "span": [start, stop],
        "copies": [list(place) for place in prompt.copies],
        "dropped": prompt.dropped,
    }


async def info(service: Service) -> Answer:
    """Describe the model that is served, and the limits that are enforced."""
    facts = {**service.encoder.facts, "model": service.names[0], "instruction": service.encoder.instruction}
    limits = service.limits
    room = await service.thread(lambda: {kind: service.encoder.room(kind) for kind in KINDS})
    lengths = [length for length in room.values() if length is not None]
    return Answer(
        {
            "model_id": service.names[0],
            "model_sha": facts["revision"],
            "model_dtype": facts["dtype"],
            "model_type": {"embedding": {"pooling": facts["pooling"]}},
            "max_input_length": min(lengths) if lengths else None,
            "max_client_batch_size": limits.texts,
            "max_batch_tokens": service.encoder.pack_tokens,
            "max_request_tokens": service.request_tokens,
            "max_body_bytes": limits.body_bytes,
            "max_instruction_characters": limits.instruction_characters,
            "max_seconds": limits.seconds,
            "auto_truncate": False,
            "version": __version__,
            "models": service.listed,
            "max_text_tokens": room,
            "echoembed": facts,
        }
    )
