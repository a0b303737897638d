"""Every layer's pooled states from one forward are what a model cut at that layer gives."""

import numpy as np
import pytest
import torch

import echoembed
import tiny_models
from echoembed.model.layers import layer_states
from echoembed.model.transformer import transformer_of

TEXTS = ["A cat sat on a mat.", "Rain fell over the old town and the river.", "A cat sat on a mat.", "Boats"]


@pytest.mark.parametrize("engine", ["packed", "padded"])
def test_each_layer_is_the_one_a_cut_model_pools(engine):
    folder = tiny_models.folder("llama")
    model = echoembed.load(folder, device="cpu", engine=engine, normalize=False)
    states_LBSD, mask_BS = layer_states(model, transformer_of(model).reader.render(TEXTS))
    assert len(states_LBSD) == transformer_of(model).layers + 1
    for layer in range(len(states_LBSD)):
        whole = layer == len(states_LBSD) - 1
        cut = echoembed.load(folder, device="cpu", layer=-1 if whole else layer, normalize=False)
        mean_BD = (states_LBSD[layer] * mask_BS[:, :, None]).sum(dim=1) / mask_BS.sum(dim=1, keepdim=True)
        np.testing.assert_allclose(mean_BD.numpy(), cut.encode(TEXTS), atol=1e-5)


def test_packed_and_padded_agree():
    both = [echoembed.load(tiny_models.folder("gemma2"), device="cpu", engine=name) for name in ("packed", "padded")]
    (one, mask), (other, _) = [layer_states(model, transformer_of(model).reader.render(TEXTS)) for model in both]
    assert (one - other).abs().max() <= 1e-5 * other.abs().max()
    assert torch.equal((one[0] != 0).any(dim=-1), mask.bool())
