"""LoRA under the library's own trainer: its checkpoints bring back the adapter that was trained."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from sentence_transformers.base.evaluation import BaseEvaluator

import echoembed
import tiny_models
from echoembed.errors import ModelError

TEXTS = ["the cat sat on a mat", "rain fell over the old town"]
ROWS = Dataset.from_dict({"anchor": ["the cat", "the rain"] * 8, "positive": ["a mat", "old town"] * 8})


def with_lora(rank: int = 4) -> SentenceTransformer:
    torch.manual_seed(0)
    model = echoembed.load(tiny_models.folder("llama"), device="cpu")
    model[0].model.add_adapter(LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], bias="none"))
    return model


class Scores(BaseEvaluator):
    """Says which evaluation was the best, and keeps what the model then gave."""

    def __init__(self, best: int) -> None:
        super().__init__()
        self.best, self.vectors, self.primary_metric = best, [], "score"

    def __call__(self, model: SentenceTransformer, *_: object, **__: object) -> dict[str, float]:
        self.vectors.append(model.encode(TEXTS))
        return {"score": float(len(self.vectors) == self.best)}


def trained(model: SentenceTransformer, folder: Path, steps: int, resume: bool | str = False, **options: Any):
    arguments = SentenceTransformerTrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="steps",
        save_steps=2,
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        router_mapping={"anchor": "query", "positive": "document"},
        **{key: value for key, value in options.items() if key != "evaluator"},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=ROWS,
            loss=losses.MultipleNegativesRankingLoss(model),
            evaluator=options.get("evaluator"),
        )
        trainer.train(resume_from_checkpoint=resume)
    return model


def test_the_best_weights_are_those_that_come_back(tmp_path):
    evaluator = Scores(best=1)
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    model = trained(with_lora(), tmp_path, 6, evaluator=evaluator, metric_for_best_model="score", **options)
    assert np.allclose(model.encode(TEXTS), evaluator.vectors[0], atol=1e-6)
    assert not np.allclose(evaluator.vectors[0], evaluator.vectors[-1], atol=1e-3)


def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(tmp_path):
    whole = trained(with_lora(), tmp_path / "whole", 4)
    trained(with_lora(), tmp_path / "halves", 2)
    resumed = trained(with_lora(), tmp_path / "halves", 4, resume=True)
    assert np.allclose(resumed.encode(TEXTS), whole.encode(TEXTS), atol=1e-5)
    frozen = dict(echoembed.load(tiny_models.folder("llama"), device="cpu")[0].model.named_parameters())
    for name, weight in resumed[0].model.named_parameters():
        if "base_layer" in name:
            assert torch.equal(weight, frozen[name.replace(".base_layer", "")])


def test_a_checkpoint_is_a_whole_model_for_both_loaders(tmp_path):
    model = trained(with_lora(), tmp_path, 2)
    for load in (
        lambda folder: echoembed.load(folder, device="cpu"),
        lambda folder: SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"),
    ):
        assert np.allclose(load(tmp_path / "checkpoint-2").encode(TEXTS), model.encode(TEXTS), atol=1e-5)


def test_a_model_saved_over_a_checkpoint_leaves_no_adapter_in_training(tmp_path):
    trained(with_lora(), tmp_path, 2)
    folder = tmp_path / "checkpoint-2"
    assert [*folder.rglob("adapter_in_training.safetensors")]
    echoembed.load(folder, device="cpu").save_pretrained(str(folder))
    assert not [*folder.rglob("adapter_in_training.safetensors")]


def test_merged_weights_alone_are_nothing_to_go_on_from(tmp_path):
    merged = echoembed.load(tiny_models.folder("llama"), device="cpu")
    with pytest.raises(ModelError, match="cannot be told from it"):
        with_lora().load_state_dict(merged.state_dict())
    own = with_lora()
    state = copy.deepcopy(own.state_dict())
    own.load_state_dict(state)  # an adapter's own state is what it was


def test_a_model_without_an_adapter_has_no_such_file(tmp_path):
    folder = echoembed.save(echoembed.load(tiny_models.folder("llama"), device="cpu"), tmp_path / "model")
    assert [path.name for path in folder.rglob("*.safetensors")] == ["model.safetensors"]
    assert json.loads((folder / "modules.json").read_text())
