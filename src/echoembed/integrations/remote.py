"""A model on another server: prompts are rendered and states are pooled here; the server computes each token's state.

Servers such as llama.cpp and vLLM pool all tokens of a prompt, so their own embeddings of an echo prompt are not echo
embeddings. They can return the state of every token, though, which is all that echo needs if the recipe pools the last
layer.

Shapes: N prompts, T tokens of a prompt, D width of the model.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from echoembed import errors
from echoembed.checks import ABOVE_ZERO, check_fields
from echoembed.integrations.several import texts_of
from echoembed.texts.remote import web_address

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from echoembed.prompts.template import Kind

Protocol = Literal["llama.cpp", "vllm"]
ROUTES = {"llama.cpp": "/embeddings", "vllm": "/pooling"}
PROBE = "A baker makes bread before dawn."


@dataclass(frozen=True, kw_only=True)
class TokenStates:
    """A server that returns the last layer's state of every token.

    Attributes:
        url: The server's address, such as ``http://127.0.0.1:8080``.
        protocol: ``llama.cpp``: ``llama-server --embedding --pooling none``. ``vllm``: ``vllm serve MODEL --runner
            pooling`` with a token pooler.
        model: The model's name on a vLLM server.
        timeout: Seconds to wait for an answer.

    Raises:
        ModelError: If a setting has a value that is not allowed.
    """

    url: str
    protocol: Protocol = "llama.cpp"
    model: str | None = None
    timeout: float = 600.0

    def __post_init__(self) -> None:
        check_fields(self, errors.ModelError.bad_value, {"timeout": ABOVE_ZERO})

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Return the states of each prompt, float32 ``_TD``.

        Raises:
            ModelError: If the server cannot be reached, refuses, or returns another number of states than tokens.
        """
        body: dict[str, Any] = {"input": [list(ids) for ids in prompts], "encoding_format": "float"}
        if self.protocol == "vllm":
            body |= {"model": self.model, "task": "token_embed", "add_special_tokens": False}
        answer = self._ask(body)
        try:
            if self.protocol == "vllm":
                rows = [row["data"] for row in sorted(answer["data"], key=lambda row: row["index"])]
            else:
                rows = [row["embedding"] for row in sorted(answer, key=lambda row: row["index"])]
            states = [np.asarray(row, np.float32) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise errors.remote_states(self.url, f"what it says holds no states by token ({error})") from error
        shapes, lengths = [states_TD.shape for states_TD in states], [len(ids) for ids in prompts]
        if [shape[:-1] for shape in shapes] != [(length,) for length in lengths]:
            reason = f"it gives {shapes[:3]} for prompts of {lengths[:3]} tokens"
            raise errors.remote_states(self.url, reason)
        if not all(np.isfinite(states_TD).all() for states_TD in states):
            raise errors.remote_states(self.url, "a state is not finite")
        return states

    def _ask(self, body: dict[str, Any]) -> Any:
        try:
            web_address(self.url)
            request = urllib.request.Request(  # noqa: S310 (checked above)
                self.url.rstrip("/") + ROUTES[self.protocol],
                data=json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310 (checked above)
                return json.load(answer)
        except urllib.error.HTTPError as error:
            answer_text = error.read(300).decode("utf-8", "replace")
            raise errors.remote_states(self.url, f"it answers {error.code}: {answer_text}") from error
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            # A password in the address is not shown.
            raise errors.remote_states(self.url.rpartition("@")[2], str(error) or type(error).__name__) from error


class RemoteModel:
    """Embeds texts with the states of a server.

    Args:
        model: The same model, from ``load``: it renders prompts, and is used once to check the server's states.
        states: The server.
        batch_size: Prompts of one request.
        tolerance: Largest distance between a vector of the server and the same vector made here. llama.cpp rounds its
            products to eight bits: SmolLM2's vectors were 2e-2 away, calibrated ones 8e-2.

    Attributes:
        distance: How far the vector of a probe text was.

    Raises:
        ModelError: If the recipe pools another layer than the last, the server's vectors differ, or ``batch_size`` is
            not above 0.
    """

    def __init__(
        self, model: SentenceTransformer, states: TokenStates, *, batch_size: int = 16, tolerance: float = 0.1
    ) -> None:
        from echoembed.model.transformer import transformer_of

        if type(batch_size) is not int or batch_size < 1:
            raise errors.ModelError.bad_value("batch_size", batch_size, "a whole number above 0")
        transformer = transformer_of(model)
        self._model = model
        self._reader = transformer.reader
        self._states = states
        self._batch_size = batch_size
        if transformer.cut:
            raise errors.ModelError.bad_value(
                "layer", transformer.recipe.layer, "-1: a server gives the last layer's states"
            )
        recipe = transformer.recipe
        if recipe.beside or recipe.looks_back or recipe.counts_tokens:
            allowed = "one with a single prompt and plain pooling: a server is asked for the states of one prompt"
            raise errors.ModelError.bad_value("recipe", recipe.name, allowed)
        here_D = model.encode_document([PROBE], show_progress_bar=False)[0]
        distance = float(np.linalg.norm(here_D / np.linalg.norm(here_D) - self.encode([PROBE], task="document")[0]))
        self.distance = distance
        if not distance <= tolerance:
            reason = f"the vector of a text is {distance:.1e} from the model's own, and {tolerance:.1e} is allowed"
            raise errors.remote_states(states.url, reason)

    def encode(
        self, texts: str | Sequence[str], *, task: Kind = "query", instruction: str | None = None
    ) -> NDArray[np.float32]:
        """Embed texts: float32 ``_ND`` of length 1, in order; ``_D`` for one text that is in no list.

        Raises:
            TextError: If a text cannot be embedded, or these are a table.
            ModelError: As for ``TokenStates``.
        """
        several = [texts] if isinstance(texts, str) else texts_of(texts)
        prompts = self._reader.render(several, task=task, instruction=instruction)
        self._reader.warn_of_cuts(prompts)
        vectors = []
        for start in range(0, len(prompts), self._batch_size):
            part = prompts[start : start + self._batch_size]
            for prompt, states_TD in zip(part, self._states([prompt.ids for prompt in part]), strict=True):
                vectors.append(self._pooled(states_TD[slice(*prompt.span)]))
        if not vectors:
            return np.empty((0, self._model.get_embedding_dimension() or 0), np.float32)
        return vectors[0] if isinstance(texts, str) else np.stack(vectors)

    def _pooled(self, span_TD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the model's later modules to a span: pooling, calibration, cutting, scaling to length 1."""
        import torch

        states_1TD = torch.from_numpy(np.ascontiguousarray(span_TD))[None].to(self._model.device)
        features: dict[str, Any] = {
            "token_embeddings": states_1TD,
            "attention_mask": torch.ones(states_1TD.shape[:2], dtype=torch.long, device=states_1TD.device),
        }
        with torch.inference_mode():
            for module in list(self._model)[1:]:
                features = module(features)
        vector_D = features["sentence_embedding"][0][: self._model.truncate_dim].float().cpu().numpy()
        return np.asarray(vector_D / np.linalg.norm(vector_D), np.float32)
