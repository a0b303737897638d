"""Masked next-token prediction is what its paper says: chosen tokens, predicted from the state before them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import echoembed
import tiny_models
from echoembed import errors
from echoembed.model.transformer import transformer_of
from echoembed.training import mntp
from echoembed.training.adapter import add_adapter
from echoembed.training.config import AdapterConfig, MaskingConfig
from echoembed.training.mntp import IGNORED, MntpLoss, mask_tokens, plain_text

pytest.importorskip("peft")

TEXTS = ["the cat sat on a mat while rain fell", "the river carried its boats to harbour", "nobody waits", "old town"]
FAMILIES = ["llama", "mistral", "qwen2", "gemma", "gemma2", "gemma3", "gpt2", "gptj", "gpt-neox", "opt", "phi3"]
MASKING = MaskingConfig(rate=0.4)


def load(family="llama", recipe="classical-bidirectional", **settings):
    return echoembed.load(tiny_models.folder(family, **settings), recipe=recipe, engine="padded", device="cpu")


def features(model, texts=TEXTS):
    return plain_text(model).preprocess(texts, task="query")


def oracle(folder, ids_BT, mask_BT, labels_BT):
    """The loss token by token, on the whole language model of transformers."""
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    whole.config.is_causal = False
    losses = []
    for ids_T, mask_T, labels_T in zip(ids_BT, mask_BT, labels_BT, strict=True):
        length = int(mask_T.sum())
        with torch.no_grad():
            logits_TV = whole(input_ids=ids_T[None, :length], attention_mask=mask_T[None, :length]).logits[0]
        for place in range(length):
            if labels_T[place] != IGNORED:
                losses.append(-logits_TV[place - 1].double().log_softmax(-1)[labels_T[place]].item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_the_language_model_under_attention_in_both_directions(family, tied):
    if (family, tied) in {("gptj", True), ("gpt-neox", True), ("opt", False)}:
        pytest.skip("the family has no such models")
    folder = tiny_models.folder(family, tie_word_embeddings=tied)
    model = load(family, tie_word_embeddings=tied)
    batch = features(model)
    loss = MntpLoss(model, MASKING)
    torch.manual_seed(3)
    ids_BT, labels_BT = mask_tokens(batch["input_ids"], batch["span_mask"], MASKING, loss.mask_id, loss.ordinary_V)
    expected = oracle(folder, ids_BT, batch["attention_mask"], labels_BT)
    torch.manual_seed(3)
    assert loss([batch], None).item() == pytest.approx(expected, rel=1e-5)


def test_chunks_change_neither_loss_nor_gradient():
    found, losses = [], []
    for size in (None, 1, 3):
        model = load()
        add_adapter(model, AdapterConfig(rank=4), seed=1)
        model.train()
        torch.manual_seed(5)
        loss = MntpLoss(model, MASKING, chunk_size=size)([features(model)])
        loss.backward()
        losses.append(loss.item())
        found.append(torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad]))
    assert found[0].abs().max() > 1e-4
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


def _shares(rank, folder):
    """One of two processes, which have masked 3 and 9 tokens."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    share = mntp._per_process(torch.tensor([3, 9][rank]))
    (Path(folder) / f"share-{rank}").write_text(str(share))
    torch.distributed.destroy_process_group()


def test_processes_weigh_by_their_masked_tokens(tmp_path):
    """The sums of both over these shares have the mean over all twelve tokens as their mean."""
    torch.multiprocessing.spawn(_shares, (str(tmp_path),), nprocs=2)
    assert [float((tmp_path / f"share-{rank}").read_text()) for rank in (0, 1)] == [6.0, 6.0]
    assert mntp._per_process(torch.tensor(3)) == 3.0


def test_texts_are_read_plain_by_the_same_weights_while_the_model_keeps_its_recipe():
    model = load()
    transformer = transformer_of(model)
    before = transformer.reader.render(TEXTS)[0].ids
    reading = transformer_of(plain_text(model))
    assert reading.model is transformer.model
    [plain] = reading.reader.render(TEXTS[:1])
    fresh = reading.preprocess(TEXTS[:1])
    whole = transformer.tokenizer(TEXTS[0])["input_ids"]
    assert list(plain.ids) == whole
    assert plain.span == (1, len(whole))  # all but the BOS
    assert fresh["input_ids"][0].tolist() == whole
    assert transformer.reader.render(TEXTS)[0].ids == before != plain.ids


def test_plain_text_takes_a_recipe_with_an_instruction():
    model = echoembed.load(tiny_models.folder("mistral"), recipe=llm2vec(), engine="padded", device="cpu")
    batch = features(model)
    assert (
        batch["input_ids"][0].tolist()[: int(batch["attention_mask"][0].sum())]
        == (transformer_of(model).tokenizer(TEXTS[0])["input_ids"])
    )


def llm2vec():
    row = echoembed.recipes["llm2vec-unsupervised"].as_dict()
    return echoembed.Recipe(**{**row, "checkpoint": "", "adapters": (), "trained": False})


def many(rate, scheme, rows=400, width=101):
    """A batch of ids 100 to 199, padded by ten, under a mask 7; random tokens are 200 to 299."""
    ids_BT = torch.randint(100, 200, (rows, width))
    text_BT = torch.ones_like(ids_BT)
    text_BT[:, -10:] = 0
    text_BT[:, 0] = 0  # BOS
    masking = MaskingConfig(rate=rate, scheme=scheme)
    hidden_BT, labels_BT = mask_tokens(ids_BT, text_BT, masking, 7, torch.arange(200, 300))
    return ids_BT, text_BT.bool(), hidden_BT, labels_BT


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.8])
def test_shares_are_what_was_asked_for(rate):
    torch.manual_seed(11)
    ids_BT, text_BT, hidden_BT, labels_BT = many(rate, "80-10-10")
    chosen_BT = labels_BT != IGNORED
    count, texts = int(chosen_BT.sum()), int(text_BT.sum())
    assert texts == 400 * 90

    def near(found, share, of):  # four standard errors
        assert abs(found / of - share) < 4 * (share * (1 - share) / of) ** 0.5

    near(count, rate, texts)
    near(int((hidden_BT == 7).sum()), 0.8, count)
    near(int((hidden_BT >= 200).sum()), 0.1, count)
    near(int((chosen_BT & (hidden_BT == ids_BT)).sum()), 0.1, count)
    assert torch.equal(labels_BT[chosen_BT], ids_BT[chosen_BT])
    assert torch.equal(hidden_BT[~chosen_BT], ids_BT[~chosen_BT])
    assert not chosen_BT[~text_BT].any()


def test_all_means_that_every_chosen_token_is_the_mask():
    torch.manual_seed(12)
    _, _, hidden_BT, labels_BT = many(0.3, "all")
    assert torch.equal(hidden_BT == 7, labels_BT != IGNORED)


def test_special_tokens_padding_and_first_tokens_are_never_chosen():
    for family in ("llama", "qwen2"):  # with a BOS and without
        model = load(family)
        batch = features(model, [*TEXTS, "cat"])
        loss = MntpLoss(model, MaskingConfig(rate=1.0))
        _, labels_BT = mask_tokens(batch["input_ids"], batch["span_mask"], loss.masking, loss.mask_id, loss.ordinary_V)
        expected_BT = batch["attention_mask"].clone()
        expected_BT[:, 0] = 0
        assert torch.equal(labels_BT != IGNORED, expected_BT.bool())
        assert not set(labels_BT.unique().tolist()) & transformer_of(model).pieces.special_ids


def test_random_tokens_are_never_special_ones():
    model = load()
    ordinary = set(MntpLoss(model, MASKING).ordinary_V.tolist())
    special = set(transformer_of(model).pieces.special_ids)
    assert special
    assert ordinary == set(range(len(transformer_of(model).tokenizer))) - special


def test_one_token_at_least_is_chosen():
    torch.manual_seed(0)
    ids_BT = torch.randint(100, 200, (2, 4))
    for _ in range(50):
        _, labels_BT = mask_tokens(ids_BT, torch.ones_like(ids_BT), MaskingConfig(rate=1e-6), 7, torch.arange(9))
        assert (labels_BT != IGNORED).sum() == 1
        assert (labels_BT[:, 0] == IGNORED).all()


def test_the_same_state_of_the_generator_gives_the_same_masks():
    model = load()
    loss, batch = MntpLoss(model, MASKING), features(model)
    torch.manual_seed(8)
    state = torch.get_rng_state()
    first, second = loss([batch]).item(), loss([batch]).item()
    torch.set_rng_state(state)
    assert loss([batch]).item() == first != second


@pytest.mark.parametrize("tied", [True, False])
def test_training_lowers_the_loss_and_moves_lora_alone(tied):
    torch.manual_seed(0)
    model = load(tie_word_embeddings=tied)
    add_adapter(model, AdapterConfig(rank=8), seed=1)
    model.train()
    loss = MntpLoss(model, MaskingConfig(rate=0.3, scheme="all"))
    trained = [weight for weight in loss.parameters() if weight.requires_grad]
    frozen = {name: weight.clone() for name, weight in loss.named_parameters() if not weight.requires_grad}
    assert len(trained) == 2 * 7 * 3  # A and B of seven linear layers in each of three: the head is not among them
    optimiser = torch.optim.AdamW(trained, lr=0.02)
    batch = features(model)

    def held():
        torch.manual_seed(77)
        with torch.no_grad():
            return sum(loss([batch]).item() for _ in range(8)) / 8

    before = held()
    torch.manual_seed(1)
    for _ in range(200):
        optimiser.zero_grad()
        loss([batch]).backward()
        assert all(weight.grad is not None for weight in trained)
        optimiser.step()
    assert held() < 0.8 * before
    for name, weight in loss.named_parameters():
        if name in frozen:
            assert torch.equal(weight, frozen[name])


def test_a_tied_head_learns_with_the_embedding():
    model = load(tie_word_embeddings=True)
    model.requires_grad_(True)
    loss = MntpLoss(model, MASKING)
    torch.manual_seed(2)
    before = loss([features(model)]).item()
    with torch.no_grad():
        transformer_of(model).model.get_input_embeddings().weight.mul_(1.5)
    torch.manual_seed(2)
    assert loss([features(model)]).item() != pytest.approx(before, rel=1e-3)
    assert not [name for name, _ in loss.named_parameters() if name.startswith("head")]


def test_what_cannot_be_trained_so_is_refused(tmp_path):
    with pytest.raises(errors.ModelError, match=r"reads with causal attention\. Allowed: attention = 'bidirectional'"):
        MntpLoss(load(recipe="classical"), MASKING)
    cut = echoembed.load(tiny_models.folder("llama"), recipe="classical-bidirectional", layer=2, engine="padded")
    with pytest.raises(errors.ModelError, match=r"cut at layer 2\. Allowed: layer -1"):
        MntpLoss(cut, MASKING)
    with pytest.raises(errors.ModelError, match="'bert' is no causal language model"):
        MntpLoss(load("bert"), MASKING)
    folder = echoembed.save(load(tie_word_embeddings=False), tmp_path / "headless")
    with pytest.raises(errors.ModelError, match=r"has no lm_head.weight, with which a language model predicts"):
        MntpLoss(echoembed.load(folder, engine="padded"), MASKING)
    with pytest.raises(errors.ModelError, match=r"masking.token = 'cat dog', which is \d+ tokens"):
        MntpLoss(load(), MaskingConfig(token="cat dog"))
    model = load("qwen2")
    loss, batch = MntpLoss(model, MASKING), features(model, ["a", "a"])
    with pytest.raises(errors.ModelError, match="None of the 2 texts of a batch has a token that follows another"):
        loss([batch])


def test_the_mask_is_the_entry_of_the_vocabulary():
    for family in ("llama", "qwen2", "gpt2", "gemma"):
        model = load(family)
        assert transformer_of(model).pieces.token(MntpLoss(model, MASKING).mask_id) == "_"


def test_the_loss_leaves_the_batch_as_it_was():
    model = load()
    batch = features(model)
    before = {key: value.clone() for key, value in batch.items()}
    MntpLoss(model, MASKING)([batch])
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[key], before[key]) for key in batch)
    assert isinstance(MntpLoss(model, MASKING).model, nn.Module)


@pytest.mark.filterwarnings("ignore::echoembed.TruncationWarning")
def test_the_recipes_budget_holds_for_plain_text_too():
    model = load(recipe=replace(echoembed.recipes["classical-bidirectional"], budget=3))
    assert features(model, TEXTS[:1])["attention_mask"].sum() == 4  # and the BOS
