"""Batches of prompts for the engine's tests, and the padded forward that the packed one must equal."""

import torch

import tiny_models
from echoembed.model import backbone
from echoembed.model.pooling import gather_spans, span_mask

LENGTHS = [4, 11, 11, 19, 27, 5]  # with a shared beginning of three tokens
TOLERANCE = 1e-5


def load(family, attention="causal", **settings):
    folder = tiny_models.folder(family, **settings)
    config = backbone.read_config(folder, family, attention)
    return backbone.load_model(folder, family, config, torch.float32)


def features(lengths, spans, vocabulary=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (len(lengths), max(lengths)), generator=generator)
    ids[:, :3] = torch.tensor([7, 8, 9])[: ids.shape[1]]
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask, span_mask(spans, max(lengths)), torch.full((len(lengths),), 3)


def spans_of(kind, lengths):
    return {
        "echo": [((length + 3) // 2, length) for length in lengths],
        "middle": [(3, max(length - 2, 4)) for length in lengths],
        "last": [(length - 1, length) for length in lengths],
        "whole": [(0, length) for length in lengths],
    }[kind]


@torch.no_grad()
def padded(model, ids, mask, span, _shared=None):
    return gather_spans(model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state, span)


def assert_equal(got, wanted, tolerance=TOLERANCE):
    (states, mask), (wanted_states, wanted_mask) = got, wanted
    assert torch.equal(mask, wanted_mask)
    assert states.shape == wanted_states.shape
    assert states.dtype == torch.float32
    assert float((states - wanted_states).abs().max() / wanted_states.abs().max()) < tolerance
