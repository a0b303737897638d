"""``dtype="auto"``: the dtype that a loaded model runs in, and why.

``auto`` takes the fastest dtype that this processor has instructions for and whose vectors are close enough to
float32's. The processor's features tell which dtypes are fast. How close a dtype comes is measured on probe texts, with
the vectors of the whole pipeline, calibration included. The float32 weights are freed as they are converted, so that
memory does not hold them twice; where a dtype does not come close enough, they are read from their files again.

Shapes: N probe texts, D width of the vectors.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from echoembed import errors
from echoembed.engine import Processor, float_layers
from echoembed.model.backbone import drop_layers
from echoembed.model.beside import beside
from echoembed.model.encode import encode_prompts
from echoembed.model.probes import BOUND_TEXTS
from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.model.weights import convert, sketch
from echoembed.numerics import LEAST_COSINE
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from numpy.typing import NDArray


def settle(model: SentenceTransformer, processor: Processor | None = None) -> None:
    """Choose the dtype of a model that was loaded in float32 on a CPU, as ``dtype="auto"`` does.

    ``transformer_of(model).running`` and ``describe`` tell which dtype was chosen, and why.

    Args:
        model: As ``load`` made it, with the weights of its files; changed in place.
        processor: The features to decide by; None for those of this machine's processor.
    """
    processor = processor or Processor.here()
    transformer = transformer_of(model)
    prompts = _prompts(transformer, BOUND_TEXTS)
    tried: list[str] = []
    exact_ND = _unit(encode_prompts(model, prompts)) if processor.fast else None
    for dtype in processor.fast:
        if not _convert(transformer, dtype):
            tried.append(f"{dtype} refused: no layer is an nn.Linear")
            continue
        assert exact_ND is not None
        cosine_N = (_unit(encode_prompts(model, prompts)) * exact_ND).sum(axis=1)
        bound, least, mean = LEAST_COSINE[dtype], float(cosine_N.min()), float(cosine_N.mean())
        passed = least >= bound
        verdict = "cosine to float32" if passed else "refused: cosine to float32"
        tried.append(
            f"{dtype} {verdict} {least:.5f} at least, {mean:.5f} on average, of {len(prompts)} texts (bound {bound})"
        )
        if passed:
            _record(transformer, dtype, processor, tried)
            return
        _read_again(transformer)
    _record(transformer, "float32", processor, tried)


def _record(transformer: EchoTransformer, dtype: str, processor: Processor, tried: list[str]) -> None:
    reason = "; ".join([f"auto, on {processor}", *tried])
    transformer.running = replace(
        transformer.running,
        dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32,
        int8=dtype == "int8",
        dtype_reason=reason,
    )
    transformer.sketch = sketch(transformer.model)


def _read_again(transformer: EchoTransformer) -> None:
    """Read the weights from their files again, in place of those in memory, which are freed first."""
    del transformer.model, transformer.beside
    gc.collect()  # modules refer to one another
    transformer.model = transformer._load_model("", "", transformer._load_config()[0])
    if transformer.model.config.num_hidden_layers > transformer.layers:
        drop_layers(transformer.model, transformer.name, transformer.layers)
    transformer.beside = beside(transformer)


def _convert(transformer: EchoTransformer, dtype: str) -> bool:
    """Convert a float32 model in place, weight by weight; False, and nothing done, if the model cannot be converted."""
    model = transformer.model
    if dtype == "int8":
        if not float_layers(model):
            return False
        transformer.to_int8()
        return True
    convert(model, torch.bfloat16)
    return True


def _prompts(transformer: EchoTransformer, texts: tuple[str, ...]) -> list[Rendered]:
    """Render the texts, without those that the model's tokenizer cannot read."""
    reader = replace(transformer.reader, overflow="ignore")
    prompts: list[Rendered] = []
    for text in texts:
        try:
            prompts += reader.render([text])
        except errors.TextError:
            continue
    return prompts


def _unit(vectors_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    exact_ND = vectors_ND.astype(np.float64)
    unit_ND: NDArray[np.float64] = exact_ND / np.linalg.norm(exact_ND, axis=1, keepdims=True)
    return unit_ND
