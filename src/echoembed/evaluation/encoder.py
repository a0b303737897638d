"""Our model as an encoder for mteb: every text is read with the template and the instruction that its task needs.

Queries are read with the query template, documents with the document template. For symmetric tasks (STS,
classification, clustering, pair classification, summarization) mteb names neither, and all texts are read with the
query template.

Data sets hold a few texts that cannot be embedded as they are. These must not end a run of hours, and leaving them out
would change the data set. So control characters are removed, a blank text is embedded as ``PLACEHOLDER``, and both are
counted.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from echoembed import errors
from echoembed.evaluation.cache import VectorCache, Vectors
from echoembed.evaluation.instructions import instruction_for
from echoembed.evaluation.peers import System
from echoembed.evaluation.rows import PLACEHOLDER, readable
from echoembed.model.describe import describe, fingerprint
from echoembed.model.transformer import transformer_of
from echoembed.prompts.template import Rendered
from echoembed.prompts.text import clean_text
from echoembed.recipe import Kind

CHUNK = 1024


class MtebEncoder(AbsEncoder):
    """An encoder for mteb.

    Args:
        model: From ``echoembed.load``.
        batch_size: Texts of a padded forward; it does not limit packs.
        cache: A cache that several evaluations share; None for one per task.

    Attributes:
        counts: Counts since ``begin``: distinct ``texts`` embedded and their ``characters``, texts ``cut`` to the
            budget, and ``blank`` and ``cleaned`` texts.
        seconds: Seconds in the model since ``begin``.
        on_progress: Called with the number of characters embedded since ``begin``.
    """

    def __init__(self, model: SentenceTransformer, *, batch_size: int = 32, cache: VectorCache | None = None) -> None:
        self.model = model
        self.cache = cache
        self.transformer = transformer_of(model)
        self.batch_size = batch_size
        self.on_progress: Callable[[int], None] = lambda _: None
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"echoembed/{self.transformer.recipe.name}",
                "revision": fingerprint(model),
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )
        self.begin()

    @property
    def model_name(self) -> str:
        """The name of the weights."""
        return self.transformer.name

    @property
    def system(self) -> str:
        """The recipe's name."""
        return self.transformer.recipe.name

    @property
    def fingerprint(self) -> str:
        """The fingerprint of model and recipe."""
        return fingerprint(self.model)

    @property
    def dtype(self) -> str:
        """The dtype of the weights."""
        return str(describe(self.model)["dtype"])

    def begin(self, hint: str = "") -> None:
        """Forget the last task's texts and counts.

        Args:
            hint: The instruction for the next task, if the paper has none.
        """
        self.hint = hint
        self.counts = {"texts": 0, "characters": 0, "blank": 0, "cleaned": 0, "cut": 0}
        self.seconds = 0.0
        self._seen: set[tuple[Kind, str, str]] = set()
        self._cache = self.cache or VectorCache()

    def encode(
        self, inputs: Iterable[Any], *, task_metadata: TaskMetadata, prompt_type: PromptType | None = None, **_: Any
    ) -> Vectors:
        """Embed the texts of a task.

        Args:
            inputs: Batches, each with a list ``text``.
            task_metadata: The task's metadata; its name selects the instruction.
            prompt_type: Query or document; None for a symmetric task.
            _: mteb's split, subset and settings, which are not used.

        Returns:
            Vectors in float32, (N, D), in the order of the texts.
        """
        texts = [self._embeddable(text) for batch in inputs for text in batch["text"]]
        kind: Kind = "document" if prompt_type == PromptType.document else "query"
        instruction = self.instruction(task_metadata.name, str(task_metadata.type), kind)
        vectors = self._embed(dict.fromkeys(texts), kind, instruction)
        return np.stack([vectors[text] for text in texts])

    def instruction(self, task: str, type_: str, kind: Kind) -> str:
        """Return the instruction for a task; "" if the recipe's template of that kind has no slot for one.

        It ends as the recipe's own instruction does: LLM2Vec's instructions end in a colon.
        """
        recipe = self.transformer.recipe
        if not recipe.template(kind).has("instruction"):
            return ""
        instruction = instruction_for(task, type_, self.hint) or recipe.instruction
        return instruction.rstrip(":") + ":" if recipe.instruction.endswith(":") else instruction

    def _embeddable(self, text: str) -> str:
        cleaned = clean_text(text)
        self.counts["cleaned"] += cleaned != text
        if cleaned.strip():
            return cleaned
        self.counts["blank"] += 1
        return PLACEHOLDER

    def _embed(self, texts: Iterable[str], kind: Kind, instruction: str) -> dict[str, Vectors]:
        """Embed distinct texts, longest first, so that a lack of memory shows at once."""
        vectors: dict[str, Vectors] = {}
        order = sorted(texts, key=len, reverse=True)
        started = time.monotonic()
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            prompts = self._prompts(chunk, kind, instruction)
            vectors_ND = self._cache.encode(self.model, prompts, batch_size=self.batch_size)
            vectors.update(zip(chunk, vectors_ND, strict=True))
            self.on_progress(self.counts["characters"])
        self.seconds += time.monotonic() - started
        return vectors

    def _prompts(self, texts: Sequence[str], kind: Kind, instruction: str) -> list[Rendered]:
        """Render texts, and count the new ones."""
        reader = self.transformer.reader
        can_be_read = list(texts)
        try:
            prompts = reader.render(can_be_read, task=kind, instruction=instruction)
        except errors.TextError:
            # Rarely, this tokenizer makes no token of a text.
            can_be_read = [
                text if reader.can_read(text, task=kind, instruction=instruction) else PLACEHOLDER for text in texts
            ]
            if can_be_read == list(texts):
                raise
            prompts = reader.render(can_be_read, task=kind, instruction=instruction)
        for text, read_text, prompt in zip(texts, can_be_read, prompts, strict=True):
            if (kind, instruction, text) not in self._seen:
                self._seen.add((kind, instruction, text))
                self.counts["texts"] += 1
                self.counts["characters"] += len(text)
                self.counts["blank"] += read_text != text
                self.counts["cut"] += prompt.dropped > 0
        return prompts


class SystemEncoder(AbsEncoder):
    """Another system as an encoder for mteb, with every text as it is, without template or instruction.

    Args:
        system: The system, which embeds each text only once.

    Attributes:
        counts: As for ``MtebEncoder``.
        seconds: Seconds in the system since ``begin``.
    """

    batch_size = 32

    def __init__(self, system: System) -> None:
        self.model_name, self.system, self.dtype = system.model, system.name, system.dtype
        self.fingerprint = hashlib.sha256(system.identity.encode()).hexdigest()[:16]
        self._encode = system.encode
        self._vectors: dict[str, Vectors] = {}
        self.on_progress: Callable[[int], None] = lambda _: None
        self.mteb_model_meta = ModelMeta.create_empty(
            {"name": "echoembed/other", "revision": self.fingerprint, "similarity_fn_name": ScoringFunction.COSINE}
        )
        self.begin()

    def begin(self, hint: str = "") -> None:
        """Forget the last task's counts; ``hint`` is not used."""
        self.counts = {"texts": 0, "characters": 0, "blank": 0, "cleaned": 0, "cut": 0}
        self.seconds = 0.0

    def instruction(self, task: str, type_: str, kind: Kind) -> str:
        """Return "", as other systems get no instruction."""
        return ""

    def encode(self, inputs: Iterable[Any], **_: Any) -> Vectors:
        """Embed the texts of a task: float32, (N, D), in the order of the texts."""
        texts = [readable(text) for batch in inputs for text in batch["text"]]
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        started = time.monotonic()
        if new:
            self._vectors.update(zip(new, self._encode(new), strict=True))
            self.counts["texts"] += len(new)
            self.counts["characters"] += sum(map(len, new))
        self.seconds += time.monotonic() - started
        return np.stack([self._vectors[text] for text in texts])
