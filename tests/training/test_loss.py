"""The loss is InfoNCE over all documents of the batch, and its chunks do not show in the gradient."""

from __future__ import annotations

import pytest
import torch

import echoembed
import tiny_models
import training_runs as runs
from echoembed.recipe import Recipe
from echoembed.training.adapter import add_adapter
from echoembed.training.config import AdapterConfig
from echoembed.training.loss import contrastive_loss

pytest.importorskip("peft")

COLUMNS = [
    ["the cat sat", "rain fell over the old town", "a river", "boats to harbour", "two readings"],
    ["a cat on a mat", "it rained", "its water carried boats", "where nobody waits", "reads twice"],
    ["les chats dorment", "the town", "the old river and town", "harbour", "first reading has seen nothing"],
    ["wir lesen", "the mat", "old", "boats waits", "no"],
]
KINDS = ["query", "document", "document", "document"]


def prepared(*, dropout):
    recipe = Recipe(
        name="t",
        query_template="{bos}Query: {text} Query: {text}{eos:pool}",
        document_template=runs.DOCUMENT,
        pooling="last",
    )
    folder = tiny_models.folder("llama", num_hidden_layers=2, attention_dropout=0.2 * dropout)
    model = echoembed.load(folder, recipe=recipe, engine="padded", device="cpu")
    add_adapter(model, AdapterConfig(rank=4, dropout=0.3 * dropout))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # 0 at the beginning, under which LoRA's dropout would not show
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    model.train()
    return model


def features(model):
    return [model.preprocess(texts, task=kind) for texts, kind in zip(COLUMNS, KINDS, strict=True)]


def by_hand(model, inputs, temperature, chunk):
    """InfoNCE written out, on vectors that were all computed with gradients, in the order of the loss's chunks."""
    vectors = []
    for column in inputs:
        size = len(column["input_ids"])
        parts = []
        for start in range(0, size, chunk):
            rows = {name: value[start : start + chunk] for name, value in column.items()}
            longest = int(rows["attention_mask"].sum(1).max())
            rows = {name: value[:, :longest] if value.ndim == 2 else value for name, value in rows.items()}
            parts.append(model(rows)["sentence_embedding"])
        vectors.append(torch.nn.functional.normalize(torch.cat(parts)))
    queries, documents = vectors[0], torch.cat(vectors[1:])
    total = 0.0
    for i in range(len(queries)):
        cosines = torch.stack([(queries[i] * document).sum() for document in documents])
        total = total - torch.log_softmax(cosines / temperature, dim=0)[i]
    return total / len(queries)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(("chunk", "rows"), [(2, None), (5, None), (2, 5)])
def test_the_gradient_in_chunks_is_the_whole_batchs_with_dropout_on(chunk, rows):
    """Both see the same dropout: it is drawn forward by forward, and both go through columns and chunks in order."""
    model = prepared(dropout=True)
    inputs = features(model)
    torch.manual_seed(7)
    expected = by_hand(model, inputs, 0.02, chunk)
    wanted = gradients(model, expected)
    torch.manual_seed(7)
    loss = contrastive_loss(model, temperature=0.02, chunk_size=chunk, rows=rows)(inputs, None)
    found = gradients(model, loss)
    torch.manual_seed(8)
    other = gradients(model, by_hand(model, inputs, 0.02, chunk))

    torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-5, atol=0)
    size = torch.cat([gradient.flatten() for gradient in wanted.values()]).norm()
    for name, gradient in wanted.items():
        assert gradient.norm() > 1e-6 * size, f"{name} has no gradient to compare"
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    # Not vacuous: other masks give quite another gradient.
    assert all((other[name] - gradient).norm() > 1e-2 * gradient.norm() for name, gradient in wanted.items())


def test_a_batch_that_fits_one_chunk_has_the_same_gradient():
    """It goes through the library's plain loss, which puts all columns through the model at once."""
    model = prepared(dropout=False)
    inputs = features(model)
    whole = gradients(model, by_hand(model, inputs, 0.02, 5))
    plain = contrastive_loss(model, temperature=0.02, chunk_size=5, rows=5)
    found = gradients(model, plain(inputs, None))
    assert not hasattr(plain, "mini_batch_size")  # else this would be the test above
    assert all((found[name] - g).norm() <= 1e-4 * g.norm() for name, g in whole.items())


@pytest.mark.parametrize("gradient_cache", [True, False])
def test_without_dropout_the_chunks_size_does_not_matter(gradient_cache):
    model = prepared(dropout=False)
    inputs = features(model)
    whole = gradients(model, by_hand(model, inputs, 0.02, 5))
    for chunk in (1, 3, 64):
        loss = contrastive_loss(model, temperature=0.02, chunk_size=chunk, gradient_cache=gradient_cache)
        found = gradients(model, loss(inputs, None))
        assert all((found[name] - g).norm() <= 1e-4 * g.norm() for name, g in whole.items())


@pytest.mark.parametrize("gradient_cache", [True, False])
def test_without_gradient_cache_every_text_is_read_once_and_a_chunk_at_a_time(gradient_cache):
    """Twenty texts in chunks of at most three; GradCache reads each column's chunks twice."""
    model = prepared(dropout=False)
    inputs = features(model)
    sizes = []
    handle = model.register_forward_hook(lambda _module, given, _output: sizes.append(len(given[0]["input_ids"])))
    contrastive_loss(model, temperature=0.02, chunk_size=3, gradient_cache=gradient_cache)(inputs, None).backward()
    handle.remove()
    assert max(sizes) <= 3
    assert sum(sizes) == 20 * (2 if gradient_cache else 1)


@pytest.mark.parametrize("gradient_cache", [True, False])
def test_a_chunk_is_not_padded_to_the_longest_text_of_its_batch(gradient_cache):
    model = prepared(dropout=False)
    inputs = features(model)
    lengths = []
    inner = model[0].model
    handle = inner.register_forward_pre_hook(
        lambda _module, _args, given: lengths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    contrastive_loss(model, temperature=0.02, chunk_size=1, gradient_cache=gradient_cache)(inputs, None).backward()
    handle.remove()
    wanted = [int(length) for column in inputs for length in column["attention_mask"].sum(dim=1)]
    assert sorted(lengths) == sorted(wanted * (2 if gradient_cache else 1))


def test_every_document_of_the_batch_is_a_candidate_of_every_query():
    """Each positive and each hard negative, of all rows, moves the loss."""
    vectors = [torch.randn(5, 8, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in range(4)]
    loss = contrastive_loss(prepared(dropout=False), temperature=1.0, chunk_size=2)
    loss.calculate_loss([[column] for column in vectors]).backward()
    assert all((column.grad.norm(dim=1) > 1e-3).all() for column in vectors)


def test_queries_are_compared_with_documents_alone():
    """One direction: a query is nobody's candidate, so that its gradient is that of its own row's cross-entropy."""
    vectors = [torch.randn(5, 8, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in range(4)]
    loss = contrastive_loss(prepared(dropout=False), temperature=1.0, chunk_size=2)
    loss.calculate_loss([[column] for column in vectors]).backward()
    documents = torch.nn.functional.normalize(torch.cat(vectors[1:]).detach())
    for row, query in enumerate(vectors[0].detach()):
        alone = query.clone().requires_grad_()
        logits = torch.nn.functional.normalize(alone, dim=0) @ documents.T
        (torch.nn.functional.cross_entropy(logits, torch.tensor(row)) / 5).backward()
        torch.testing.assert_close(vectors[0].grad[row], alone.grad)
