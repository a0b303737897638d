"""The model's thread: one text harms nobody else, and its end is noticed by all who wait."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import serving
from echoembed import errors
from echoembed.model.transformer import transformer_of
from echoembed.server.encoder import ServedModel
from echoembed.server.metrics import Metrics
from echoembed.server.queue import Job, Queue
from echoembed.server.worker import Worker

POISON = "zebra"


@pytest.fixture(scope="module")
def poisoned():
    """A model that gives NaN for one word: its embedding is NaN."""
    loaded = copy.deepcopy(serving.model())
    transformer = transformer_of(loaded)
    [plain], [marked] = (transformer.pieces.encode([text]) for text in ("a", f"a {POISON}"))
    ids = set(marked.ids) - set(plain.ids)
    with torch.no_grad():
        transformer.model.get_input_embeddings().weight[list(ids)] = float("nan")
    return ServedModel(loaded)


def job(encoder, *texts, **settings):
    return Job(encoder.read(list(texts), "query"), **settings)


class Ran:
    """A worker that has run some jobs to the end."""

    def __init__(self, encoder, *jobs):
        self.deaths = []
        self.queue = Queue(tokens=10**6, pack=encoder.pack_tokens)
        self.metrics = Metrics()
        self.worker = Worker(encoder, self.queue, self.metrics, self.deaths.append)
        for one in jobs:
            self.queue.put(one)
        self.queue.close()
        self.worker.start()
        self.worker.join()


def test_a_poisoned_text_fails_only_its_own_request(poisoned):
    good = [job(poisoned, "a cat", "the rain"), job(poisoned, "a town")]
    bad = job(poisoned, "a mat", f"the {POISON}")
    ran = Ran(poisoned, good[0], bad, good[1])
    assert ran.deaths == []
    with pytest.raises(errors.RequestError) as refused:
        bad.future.result(timeout=0)
    assert refused.value.status == 422
    alone = serving.model().encode(["a cat", "the rain", "a town"], task="query")
    together = np.vstack([one.future.result(timeout=0) for one in good])
    assert np.allclose(together, alone, atol=1e-5)


class Failing(ServedModel):
    """Raises what it is told to for one text, and breaks for good if it is told so."""

    def __init__(self, loaded, error, *, broken=False):
        self.error, self.broken, self.failed = error, broken, False
        super().__init__(loaded)

    def vectors(self, prompts, lane=""):
        if any(POISON in prompt.text for prompt in prompts) or (self.failed and self.broken):
            self.failed = True
            raise self.error
        return super().vectors(prompts, lane)


def test_an_unknown_fault_ends_its_request_while_the_model_still_gives_what_it_gave():
    encoder = Failing(serving.model(), RuntimeError("a fault"))
    good, bad = job(encoder, "a cat"), job(encoder, POISON)
    ran = Ran(encoder, bad, good)
    assert isinstance(bad.future.exception(timeout=0), RuntimeError)
    assert good.future.result(timeout=0).shape == (1, encoder.dimension)
    assert ran.deaths == []


@pytest.mark.parametrize(
    ("error", "broken"), [(SystemExit(3), False), (KeyboardInterrupt(), False), (RuntimeError("device lost"), True)]
)
def test_when_the_thread_dies_everyone_who_waits_is_told(error, broken):
    encoder = Failing(serving.model(), error, broken=broken)
    encoder.pack_tokens = 1  # a pack for each
    first = job(encoder, POISON)
    waiting = [job(encoder, "a cat", "the rain") for _ in range(5)]
    ran = Ran(encoder, first, *waiting)
    assert len(ran.deaths) == 1
    assert ran.worker.dead is not None
    assert not ran.worker.alive
    for one in waiting:
        assert one.future.exception(timeout=0).status == 503
    assert first.future.done()


def test_a_model_that_gives_other_vectors_after_a_fault_is_not_used_further():
    class Changed(Failing):
        def vectors(self, prompts, lane=""):
            good = super().vectors(prompts, lane)
            return good._replace(vectors=-good.vectors) if self.failed else good

    encoder = Changed(serving.model(), RuntimeError("a fault"))
    bad = job(encoder, POISON)
    assert len(Ran(encoder, bad).deaths) == 1


def test_what_was_asked_raw_is_the_vector_before_its_scaling():
    encoder = ServedModel(serving.model())
    raw, scaled = job(encoder, "a cat", raw=True), job(encoder, "a cat")
    Ran(encoder, raw, scaled)
    raw_D, scaled_D = raw.future.result()[0], scaled.future.result()[0]
    assert not np.isclose(np.linalg.norm(raw_D), 1)
    assert np.allclose(raw_D / np.linalg.norm(raw_D), scaled_D, atol=1e-6)


def test_packs_are_counted():
    encoder = ServedModel(serving.model())
    one = job(encoder, "a cat", "the rain fell")
    ran = Ran(encoder, one)
    read = sum(len(prompt.ids) for prompt in one.prompts)
    assert ran.metrics.registry.get_sample_value("echoembed_model_tokens_total") == read
    assert ran.metrics.registry.get_sample_value("echoembed_pack_fill_count") == 1
    assert one.model_seconds > 0
