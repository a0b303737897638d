"""Tiny models with random weights, one for each architecture, as ``save_pretrained`` leaves them.

    folder("llama")                    a model and a tokenizer of the kind its family has
    folder("mistral", sliding_window=4)  the same with another setting
    adapter("mistral", seed=1)         a LoRA adapter for it

Every weight is drawn anew with a spread at which attention, biases and norms all show in the states: under the
small spread that models begin their training with, a wrong mask would hide in the rounding. The same arguments
give the same folder, bytes and all, for as long as the process lives.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

WORDS = (  # noqa: SIM905
    "the cat sat on a mat while rain fell over old town and river carried its boats to harbour where nobody waits . , "
    "Rewrite following paragraph : rewritten Write This sentence means in one word Instruct Query again Document "
    "Retrieve semantically similar text Given web search query passage retrieve relevant passages that answer "
    "Represent this for searching INST instruction Two nor echo reads twice second reading has seen whole first early "
    'Les chats dorment . " ." means Wir lesen zweimal'
).split()
"""What the tokenizers are trained on: punctuation stands alone, so that it rarely merges with a word."""

_SHARED = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.2}
_GATED = {**_SHARED, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 2048}
_GEMMA = {**_GATED, "head_dim": 8, "query_pre_attn_scalar": 8}
_BERT = {**_SHARED, "intermediate_size": 48, "max_position_embeddings": 64}
_ROBERTA = {**_BERT, "max_position_embeddings": 66, "type_vocab_size": 1}  # positions count from the padding id up
_GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 2048, "initializer_range": 0.2}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "sentencepiece", _GATED),
    "mistral": ("mistral", "sentencepiece", {**_GATED, "sliding_window": None}),
    "qwen2": ("qwen2", "byte-level", _GATED),
    "qwen3": ("qwen3", "byte-level", {**_GATED, "head_dim": 8}),
    "gemma": ("gemma", "gemma", {**_GATED, "head_dim": 8}),
    "gemma2": ("gemma2", "gemma", {**_GEMMA, "sliding_window": 2048}),
    "gemma3": ("gemma3_text", "gemma", {**_GEMMA, "sliding_window": 2048}),
    "gpt2": ("gpt2", "gpt2", _GPT),
    "gptj": ("gptj", "gpt2", {**_GPT, "rotary_dim": 4}),
    "gpt-neox": ("gpt_neox", "gpt2", {**_SHARED, "intermediate_size": 48, "max_position_embeddings": 2048}),
    "bloom": ("bloom", "bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.2}),
    "opt": (
        "opt",
        "opt",
        {**_SHARED, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 2048, "init_std": 0.2},
    ),
    "phi3": ("phi3", "sentencepiece", _GATED),
    "olmo2": ("olmo2", "gpt2", _GATED),
    "smollm3": ("smollm3", "byte-level", {**_GATED, "no_rope_layers": [1, 0, 1]}),
    "cohere": ("cohere", "byte-level", _GATED),
    "mixtral": ("mixtral", "sentencepiece", {**_GATED, "num_local_experts": 4, "sliding_window": None}),
    "gpt-oss": ("gpt_oss", "byte-level", {**_GATED, "head_dim": 8, "num_local_experts": 4, "sliding_window": 8}),
    "falcon": ("falcon", "gpt2", {**_SHARED, "new_decoder_architecture": False, "multi_query": True}),
    "bert": ("bert", "wordpiece", _BERT),
    "roberta": ("roberta", "roberta", _ROBERTA),
    "xlm-roberta": ("xlm-roberta", "unigram", _ROBERTA),
}
"""Family → model type, kind of tokenizer, settings."""

_HOME = Path(tempfile.mkdtemp(prefix="tiny-models-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)


@cache
def folder(family: str, *, seed: int = 0, **settings: Any) -> Path:
    """The folder of a tiny model; ``settings`` change its configuration."""
    model_type, kind, usual = FAMILIES[family]
    path = Path(tempfile.mkdtemp(prefix=f"{family}-", dir=_HOME))
    tokenizer = _tokenizer(kind)
    tokenizer.save_pretrained(path)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(model_type, **{**usual, **ids, "vocab_size": len(tokenizer), **settings})
    masked = model_type in ("bert", "roberta", "xlm-roberta")
    model = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config)
    randomize(model, seed)
    model.save_pretrained(path)
    return path


@cache
def adapter(family: str, *, seed: int = 0, under_head: bool = False, target: str = "all-linear") -> Path:
    """The folder of a LoRA adapter with random weights, for the model without its head or for the one with it."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModel

    path = Path(tempfile.mkdtemp(prefix=f"{family}-adapter-", dir=_HOME))
    base = (AutoModelForCausalLM if under_head else AutoModel).from_pretrained(folder(family))
    task = TaskType.CAUSAL_LM if under_head else TaskType.FEATURE_EXTRACTION
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=target, task_type=task))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2, generator=generator)
    adapted.save_pretrained(path)
    return path


def copy(path: Path, target: Path, **changes: object) -> Path:
    """A copy of a model's folder, with entries of its config.json changed; ``None`` removes one."""
    shutil.copytree(path, target, dirs_exist_ok=True)
    config = {**json.loads((target / "config.json").read_text()), **changes}
    (target / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return target


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int, spread: float = 0.2) -> None:
    """Draw every weight anew; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        around_one = weight.ndim == 1 and name.endswith("weight")  # norms
        weight.normal_(float(around_one), spread, generator=generator)


@cache
def _tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer as the families have them, trained on ``WORDS``."""
    make = {
        "sentencepiece": _sentencepiece,
        "gemma": _gemma,
        "wordpiece": _wordpiece,
        "unigram": _unigram,
        "byte-level": _qwen,
        "gpt2": _gpt2,
        "opt": _opt,
        "roberta": _roberta,
        "bloom": _bloom,
    }
    return make[kind]()


def _sentencepiece() -> PreTrainedTokenizerFast:
    """Llama 2 and Mistral: a blank before the whole text, bytes for what is not in the vocabulary."""
    specials = ["<unk>", "<s>", "</s>"]
    tokenizer = _bpe_of_words(specials)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    tokenizer.post_processor = _template(tokenizer, "<s> $A")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def _gemma() -> PreTrainedTokenizerFast:
    """Gemma: SentencePiece without the blank before the text."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = _bpe_of_words(specials)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = _template(tokenizer, "<bos> $A")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def _bpe_of_words(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["▁", *map(chr, range(0x21, 0x7F))]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 700, special_tokens=[*specials, *bytes_], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    # The bytes are ordinary entries: the trainer has no other way to put them in.
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _qwen() -> PreTrainedTokenizerFast:
    """Qwen: byte-level BPE without a BOS."""
    tokenizer = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _gpt2() -> PreTrainedTokenizerFast:
    """GPT-2 and its kin: byte-level BPE, one special token for everything, none for padding."""
    tokenizer = _byte_level(["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def _opt() -> PreTrainedTokenizerFast:
    """OPT: byte-level BPE, </s> begins a text."""
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = _template(tokenizer, "</s> $A")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="</s>"
    )


def _roberta() -> PreTrainedTokenizerFast:
    """RoBERTa: byte-level BPE between <s> and </s>."""
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = _template(tokenizer, "<s> $A </s>")
    return _masked(tokenizer)  # no limit: the positions alone say how much is read


def _bloom() -> PreTrainedTokenizerFast:
    """BLOOM with the four marks that udever adds to it."""
    tokenizer = _byte_level(["<unk>", "<s>", "</s>", "<pad>"])
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in ("[BOQ]", "[EOQ]", "[BOD]", "[EOD]")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _byte_level(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    return tokenizer


def _wordpiece() -> PreTrainedTokenizerFast:
    """BERT, uncased."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    letters = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    tokenizer.post_processor = _template(tokenizer, "[CLS] $A [SEP]")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def _unigram() -> PreTrainedTokenizerFast:
    """XLM-RoBERTa: SentencePiece's Unigram, word by word."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = list(dict.fromkeys("▁" + "".join(map(chr, range(0x21, 0x7F)))))
    words = [f"▁{word}" for word in dict.fromkeys(WORDS)]
    scored = [*((token, 0.0) for token in specials), *((letter, -9.0) for letter in letters)]
    scored += [(word, -5.0 - index / 100) for index, word in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram([*scored, ("<mask>", 0.0)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*specials, "<mask>"])
    tokenizer.post_processor = _template(tokenizer, "<s> $A </s>")
    return _masked(tokenizer, model_max_length=64)


def _masked(tokenizer: Tokenizer, **settings: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        **settings,
    )


def _template(tokenizer: Tokenizer, single: str) -> processors.TemplateProcessing:
    specials = [part for part in single.split() if part != "$A"]
    return processors.TemplateProcessing(
        single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in specials]
    )
