"""Texts beside their nearest: as brute force finds them, in groups that share no text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts import importing


@pytest.fixture(scope="module")
def near():
    with importing("models/smollm2") as script:
        yield script("near")


def drawn(count):
    """Unit vectors, of which each third has a near copy that says the same."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(count, 4, generator=generator)
    vectors[::3] = vectors[1::3][: len(vectors[::3])] + 1e-3
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_the_nearest_are_those_of_brute_force_without_the_same(near, monkeypatch):
    monkeypatch.setattr(near, "CHUNK", 7)
    vectors = drawn(30)
    found = near.nearest(vectors, 5)
    cosine = vectors.double().numpy() @ vectors.double().numpy().T
    for row, cosines in zip(found, cosine, strict=True):
        wanted = [place for place in np.argsort(-cosines) if 0 < cosines[place] < near.SAME][:5]
        assert [place for place in row if place >= 0] == wanted


def test_a_group_is_a_text_with_its_nearest_and_no_text_is_in_two(near):
    nearest = near.nearest(drawn(60), 20)
    groups = near.groups(nearest, 3)
    members = [text for group in groups for text in group]
    assert len(groups) > 10
    assert len(set(members)) == len(members)
    taken = set()
    for text, *others in groups:
        assert others == [other for other in nearest[text] if other >= 0 and other not in taken][:2]
        taken |= {text, *others}
    assert groups == near.groups(nearest, 3)


class Lengths:
    """A teacher whose vector of a text is the text's length and its first letter."""

    def vectors(self, texts):
        return torch.tensor([[len(text), ord(text[0])] for text in texts], dtype=torch.float32)


@pytest.mark.parametrize(("seconds", "count"), [(None, 12), (0, 4)])
def test_texts_keep_their_own_vectors_and_those_not_read_in_time_are_left_out(near, monkeypatch, seconds, count):
    monkeypatch.setattr(near, "READ", 4)
    texts = [chr(97 + number) * (number + 1) for number in range(12)]
    read, vectors_ND = near.embedded(Lengths(), texts, seconds)
    assert torch.equal(vectors_ND, Lengths().vectors(read))
    assert len(set(read)) == len(read) == count
    assert set(read) <= set(texts)
