"""Small real tokenizers of every family, the large real ones where they are at hand, and hostile texts.

The small ones are made here, in a moment, from a few sentences of ours: the same classes, rules at the
edges and special tokens as the large ones of their family, only with a small vocabulary. The large ones are
in ``shared/tokenizers`` beside the checkout (or where ECHOEMBED_SHARED says); tests skip where that is absent.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from echoembed.errors import TextError
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.prompts.text import check_text

SHARED = Path(os.environ.get("ECHOEMBED_SHARED") or Path(__file__).resolve().parents[2] / "shared")
REAL = ("gpt2", "openai-gpt", "gpt-neox-20b", "llama-2", "mistral-v1", "mistral-v3", "llama-3", "qwen")

SENTENCES = [
    "A language model reads from left to right, so an early token knows nothing of what follows it.",
    "Rewrite the following paragraph: The rewritten paragraph: Write a paragraph: in one word:",
    "Instruct: Given a question, retrieve the passages that answer the question. Query: Query again:",
    "The small boat didn't turn back; it sailed on through the rain for 27 days, or 648 hours.",
    "She's sure (quite sure!) that they'll arrive at 10:45, won't they? We've 3 seats left, I'm told.",
    "Bread, butter and cheese cost 12.50 at the market on the corner of the old street.",
    "Two readers read the same text twice, and the second reading was better than the first.",
    "Where the river meets the sea, birds gather every autumn before their long flight south.",
    "Das Mädchen hört über den Fluß hinweg Musik. Où est la bibliothèque? El niño comió una piña.",
    "Москва и Ленинград. 北京和東京。 مرحبا بالعالم 😀👩‍👩‍👧",
    "def twice(text):\n\treturn f'{text} {text}'\n\n    # four blanks, then a comment\n",
]

LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ORDINARY_TOKEN = "<keep>"  # added to every vocabulary, and not special: text that spells it becomes it


def _adds(backend: Tokenizer, single: str, *names: str) -> Any:
    """The habit of putting special tokens around a text, which we must not fall for."""
    return processors.TemplateProcessing(single=single, special_tokens=[(n, backend.token_to_id(n)) for n in names])


def _finished(backend: Tokenizer, **roles: str) -> PreTrainedTokenizerFast:
    backend.add_tokens([AddedToken(ORDINARY_TOKEN, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, model_max_length=256, **roles
    )


def _byte_level(pre_tokenizer: Any, specials: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return backend


def gpt2_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE; one token for BOS, EOS and unknown."""
    backend = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>", "<|pad|>"])
    end = "<|endoftext|>"
    return _finished(backend, bos_token=end, eos_token=end, unk_token=end, pad_token="<|pad|>")


def prefixed_byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts a blank in front of a text that begins without one, as some RoBERTas do."""
    backend = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), ["<s>", "<pad>", "</s>", "<unk>"])
    backend.post_processor = _adds(backend, "<s> $A </s>", "<s>", "</s>")
    return _finished(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def llama3_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE behind Llama 3's split, whole words first; no unknown token, no padding token."""
    split = pre_tokenizers.Split(Regex(LLAMA_3_SPLIT), behavior="isolated")
    steps = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend = _byte_level(steps, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    backend.model.ignore_merges = True
    backend.post_processor = _adds(backend, "<|begin_of_text|> $A", "<|begin_of_text|>")
    return _finished(backend, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


def llama2_style() -> PreTrainedTokenizerFast:
    """SentencePiece BPE with byte fallback; the normaliser puts a blank in front of every text."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=760, special_tokens=[*specials, *bytes_], show_progress=False)
    trained.train_from_iterator(SENTENCES[:-2], trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    backend = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    backend.post_processor = _adds(backend, "<s> $A", "<s>")
    return _finished(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _unigram(pre_tokenizer: Any) -> Tokenizer:
    # The library's own trainers for Unigram and WordPiece give another vocabulary on every run: counted here.
    words = ["▁" + word for word in normalizers.NFKC().normalize_str(" ".join(SENTENCES)).split()]
    counts = Counter(
        word[start:stop]
        for word in words
        for start in range(len(word))
        for stop in range(start + 1, min(start + 8, len(word)) + 1)
    )
    total = counts.total()
    pieces_ = sorted(piece for piece, count in counts.items() if count > 1 or len(piece) == 1)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [*((special, 0.0) for special in specials), *((p, math.log(counts[p] / total)) for p in pieces_)]
    backend = Tokenizer(models.Unigram(vocabulary, specials.index("<unk>"), byte_fallback=False))
    backend.add_special_tokens([AddedToken(special, normalized=False) for special in specials])
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.Metaspace()
    return backend


def unigram_first() -> PreTrainedTokenizerFast:
    """SentencePiece Unigram; a blank in front of the first word where it is missing."""
    backend = _unigram(pre_tokenizers.Metaspace(prepend_scheme="first"))
    backend.post_processor = _adds(backend, "<s> $A", "<s>")
    return _finished(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def xlmr_style() -> PreTrainedTokenizerFast:
    """SentencePiece Unigram that splits at blanks and marks every word; begins with CLS, ends with SEP."""
    words = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend = _unigram(words)
    backend.post_processor = _adds(backend, "<s> $A </s>", "<s>", "</s>")
    return _finished(backend, cls_token="<s>", sep_token="</s>", unk_token="<unk>", pad_token="<pad>")


def bert_style() -> PreTrainedTokenizerFast:
    """WordPiece, lower case, [CLS] and [SEP]; neither BOS nor EOS."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    words = Counter(re.findall(r"\w+|[^\w\s]", normalizer.normalize_str(" ".join(SENTENCES))))
    chars = sorted({char for word in words for char in word})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    whole = sorted(word for word, count in words.items() if count > 1 and len(word) > 1)
    tokens = [*specials, *chars, *(f"##{char}" for char in chars), *whole]
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.add_special_tokens([AddedToken(special, normalized=False) for special in specials])
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = _adds(backend, "[CLS] $A [SEP]", "[CLS]", "[SEP]")
    return _finished(
        backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        pad_token="[PAD]",
        mask_token="[MASK]",
    )


BUILT: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt2-style": gpt2_style,
    "prefixed-byte-level": prefixed_byte_level,
    "llama3-style": llama3_style,
    "llama2-style": llama2_style,
    "unigram-first": unigram_first,
    "xlmr-style": xlmr_style,
    "bert-style": bert_style,
}


def need_shared(path: str = "") -> Path:
    """A path in the shared folder; skips the test where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"{found} is not here (set ECHOEMBED_SHARED)")
    return found


@cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of that name, built or real."""
    if name in BUILT:
        return BUILT[name]()
    return AutoTokenizer.from_pretrained(need_shared(f"tokenizers/{name}"))


@cache
def pieces(name: str) -> PieceTokenizer:
    """The same without its habits at the edges."""
    return PieceTokenizer(tokenizer(name))


def original_ids(name: str, text: str) -> list[int]:
    """What the tokenizer itself makes of a text, without the special tokens it likes to add."""
    return list(tokenizer(name).backend_tokenizer.encode(text, add_special_tokens=False).ids)


def why_refused(call: Callable[[], object]) -> str:
    """The text of the error by which a text is refused; empty where it is not."""
    try:
        call()
    except TextError as error:
        return str(error)
    return ""


every_tokenizer = pytest.mark.parametrize("name", [*BUILT, *REAL])
every_built_tokenizer = pytest.mark.parametrize("name", [*BUILT])
every_real_tokenizer = pytest.mark.parametrize("name", [*REAL])


# Texts

SPELLED = ["</s>", "<s>", "<unk>", "<pad>", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "<|endoftext|>", "<|begin_of_text|>"]
SPELLED += ["<|end_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<|padding|>", "[INST]", "[/INST]", "<0x0A>"]
FRAGMENTS = [
    *SPELLED,
    *("{text:pool}", "{text}", "{", "}", "{{", "}}", "{}", "{0}", "%s", "%%text%%", "\\n", '"', "'", "."),
    *("the", "The", "reading", "boat", "don't", "27", "1234567890", "3.14", "x" * 200, "antidisestablishmentarianism"),
    *(" ", "  ", "        ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028"),
    *("😀", "👩‍👩‍👧", "🏳️‍🌈", "e\u0301", "\u0301", "ﬁ", "ß", "İ", "Ⅷ", "\uff1cs\uff1e", "▁", "Ġ", "##ing"),
    *("مرحبا", "שלום", "\u202eabc\u202c", "北京", "東京都", "한국어", "नमस्ते", "ไทย", "\ufeff", "\u200b"),
]
PLAIN = ["the", "boat", "reading", "Two", "readers", "market", "27", "3", "birds", "street", "Bread", "a", "I", "word"]


def _is_text(text: str) -> bool:
    try:
        check_text(text)
    except TextError:
        return False
    return True


def _texts(fragments: list[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(st.sampled_from(fragments), min_size=1, max_size=8).map("".join),
        st.lists(st.sampled_from(fragments), min_size=2, max_size=6).map(" ".join),
        st.text(max_size=30),
    ).filter(_is_text)


hostile_texts = _texts(FRAGMENTS)
"""Whatever ``check_text`` lets through, and much of what has broken others."""

unspelled_texts = _texts([part for part in FRAGMENTS if part not in SPELLED and "\uff1c" not in part])
"""The same without special tokens in it."""

plain_texts = st.lists(st.sampled_from(PLAIN), min_size=1, max_size=12).map(" ".join)
"""Words with one blank between them."""

bounded = settings(derandomize=True, max_examples=20, deadline=None, database=None)
"""The same few examples on every run."""
