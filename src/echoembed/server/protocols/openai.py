"""OpenAI's embeddings, which the clients of voyage, LangChain, LlamaIndex, Chroma and Haystack use too."""

from __future__ import annotations

from typing import Any, Literal

from echoembed.server.protocols.fields import Answer, Encoding, KindTexts, agreed, answer_of, texts_of, written
from echoembed.server.service import Service, of_length_one


class EmbeddingsBody(KindTexts):
    """``POST /v1/embeddings``."""

    input: texts_of("input")  # type: ignore[valid-type]
    encoding_format: Encoding | None = None
    """Without it, float."""
    user: str | None = None
    """Accepted, but not used, like priority."""
    priority: int | None = None
    truncation: bool | None = None
    """Voyage's name for truncate."""
    output_dimension: int | None = None
    """Voyage's name for dimensions."""
    output_dtype: Literal["float"] | None = None
    embedding_type: Encoding | None = None
    """Jina's name for encoding_format."""
    normalized: Literal[True] | None = None
    """Jina's name for vectors of length 1."""
    late_chunking: Literal[False] | None = None
    modality: Literal["text"] | None = None
    """Jina's and infinity's fields; only these values hold here."""
    drop_params: bool | None = None
    """Accepted, but not used: a word of RAGFlow's to a proxy."""


async def embeddings(service: Service, body: EmbeddingsBody) -> Answer:
    """Embed texts, in OpenAI's form."""
    ask = body.ask(
        service,
        body.input,
        "input",
        truncate=bool(agreed(body, "truncate", "truncation")),
        dimensions=agreed(body, "dimensions", "output_dimension"),
    )
    # OpenAI's client sends an encoding_format of its own beside an embedding_type that its user chose.
    encoding: Encoding = body.embedding_type or body.encoding_format or "float"
    [answer] = await service.embed(ask)
    scale = body.normalized and not service.encoder.scales
    vectors_ND = of_length_one(answer.vectors) if scale else answer.vectors
    vectors = written(vectors_ND, encoding)
    content = {
        "id": "",  # Mistral's client needs one
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)],
        "model": body.model or service.names[0],
        # The tokens of the prompts, which include both copies of each text.
        "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
    }
    return answer_of(service, content, answer)


async def models(service: Service) -> Answer:
    """List the model's names."""
    return Answer({"object": "list", "data": [_described(name) for name in service.listed]})


async def model(name: str) -> Answer:
    """Describe one of the model's names."""
    return Answer(_described(name))


def _described(name: str) -> dict[str, Any]:
    # Mistral's client needs the last two.
    facts = {"object": "model", "created": 0, "owned_by": "echoembed", "type": "base", "capabilities": {}}
    return {"id": name, **facts}
