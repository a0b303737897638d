"""Batches of prompts for the engine's tests, and the padded forward that the packed one must equal."""

import torch

import tiny_models
from echoembed.model import backbone
from echoembed.model.pooling import gather_spans, pad
from echoembed.prompts.template import Rendered

LENGTHS = [4, 11, 11, 19, 27, 5]  # with a shared beginning of three tokens
TOLERANCE = 1e-5


def load(family, attention="causal", **settings):
    folder = tiny_models.folder(family, **settings)
    config = backbone.read_config(folder, family, attention)
    return backbone.load_model(folder, family, config, torch.float32)


def prompts(lengths, spans, vocabulary=400, seed=0, prefix=3):
    """Prompts of random ids that begin alike."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (len(lengths), max(lengths)), generator=generator)
    ids[:, :3] = torch.tensor([7, 8, 9])[: ids.shape[1]]
    return [
        Rendered(tuple(row[:length].tolist()), span, min(prefix, length))
        for row, length, span in zip(ids, lengths, spans, strict=True)
    ]


def spans_of(kind, lengths):
    return {
        "echo": [((length + 3) // 2, length) for length in lengths],
        "middle": [(3, max(length - 2, 4)) for length in lengths],
        "last": [(length - 1, length) for length in lengths],
        "whole": [(0, length) for length in lengths],
    }[kind]


@torch.no_grad()
def padded(model, batch):
    features = {name: value.to(model.device) for name, value in pad(batch, 0).items()}
    states = model(
        input_ids=features["input_ids"], attention_mask=features["attention_mask"], use_cache=False
    ).last_hidden_state
    return gather_spans(states, features["span_mask"])


def assert_equal(got, wanted, tolerance=TOLERANCE):
    (states, mask), (wanted_states, wanted_mask) = got, wanted
    assert torch.equal(mask, wanted_mask)
    assert states.shape == wanted_states.shape
    assert states.dtype == torch.float32
    assert float((states - wanted_states).abs().max() / wanted_states.abs().max()) < tolerance
