"""A quick start leaves out what encoding never uses, and changes nothing that the library does."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

UNUSED = ["sklearn", "datasets", "peft", "pandas", "pyarrow", "mteb", "matplotlib"]


def child(code: str, *args: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", textwrap.dedent(code), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_first_vector_imports_nothing_that_it_does_not_use():
    code = """
        import json, sys
        from echoembed.cli import app
        app(["embed", "a text", "-q", "-m", "tiny"], standalone_mode=False)
        print(json.dumps(sorted(set(json.loads(sys.argv[1])) & set(sys.modules))))
    """
    vector, imported = child(code, json.dumps(UNUSED)).splitlines()
    assert len(json.loads(vector)["vector"]) == 256
    assert json.loads(imported) == []


@pytest.mark.parametrize("first", ["quick", "plain"])
def test_after_a_quick_start_the_library_does_all_that_it_does(first):
    """Functions and classes whose modules were left out work when they are used, and are the real ones."""
    pytest.importorskip("datasets")
    pytest.importorskip("peft")
    code = """
        import gc, json, sys
        from echoembed.cli import startup
        if sys.argv[1] == "quick":
            with startup.without_unused():
                assert "sklearn" not in sys.modules or type(sys.modules["sklearn"]).__name__ == "_StandIn"
            assert not any(name.split(".")[0] in ("sklearn", "peft", "datasets") for name in sys.modules)
        assert gc.isenabled()
        import torch
        from sentence_transformers import util
        from sentence_transformers.base import sampler
        from transformers.trainer_utils import unwrap_peft_model

        a, b = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        print(util.manhattan_sim(a, b).tolist(), util.euclidean_sim(a, b).tolist())
        import datasets
        from datasets.arrow_dataset import Dataset
        rows = Dataset.from_dict({"a": [1]})
        print(isinstance(rows, sampler.Dataset), isinstance(1, sampler.Dataset), datasets.Dataset is Dataset)
        import peft, sklearn.metrics
        model = torch.nn.Linear(2, 2)
        print(unwrap_peft_model(model) is model, hasattr(peft, "LoraConfig"), hasattr(sklearn.metrics, "f1_score"))
        import sentence_transformers
        model = sentence_transformers.SentenceTransformer(modules=[torch.nn.Identity()])
        print(model.model_card_data.version["datasets"] == datasets.__version__)
        print(model.is_singular_input(rows["a"]), model.is_singular_input("a"))
    """
    assert child(code, first) == (
        "[[-7.0]] [[-5.0]]\n" + "True False True\n" + "True True True\n" + "True\n" + "False True\n"
    )


def test_training_works_after_a_quick_start(tmp_path):
    """The library's own trainer, with rows of the data set library, in the process of a quick start."""
    pytest.importorskip("datasets")
    code = """
        import sys
        from echoembed.cli import startup
        with startup.without_unused():
            import echoembed
            model = echoembed.load("tiny", recipe="classical", layer=1, device="cpu")
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        rows = Dataset.from_dict({"anchor": ["a cat", "a dog"], "positive": ["a feline", "a hound"]})
        args = SentenceTransformerTrainingArguments(
            output_dir=sys.argv[1], max_steps=1, per_device_train_batch_size=2, report_to="none", disable_tqdm=True
        )
        loss = MultipleNegativesRankingLoss(model)
        trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=loss)
        print(trainer.train().global_step)
    """
    assert child(code, str(tmp_path)).splitlines()[-1] == "1"
