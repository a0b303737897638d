"""Converts the tokenizer of a GGUF file to tokenizer.json, with the same token ids as llama.cpp.

There are two kinds: byte-level BPE (``gpt2``), whose file names the rule that splits a text before merging, and
SentencePiece's BPE (``llama``), which merges in the order of the tokens' scores. A file with a rule that is not in the
table below is refused: a wrong rule gives other ids for numbers, blanks and line breaks, and looks right on plain
sentences.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from echoembed import errors
from echoembed.sources.gguf.file import GgufFile, Value

_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_BLANK = "\u2581"
_ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
_SENTENCEPIECE = {"bos": 1, "eos": 2, "unk": 0}
"""The ids of special tokens where a SentencePiece file does not state them."""


_ENDS_AND_GAPS = (
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <|return|> <|call|> <|calls|> <|flush|> <|endoftext|> <|end_of_text|> "
    "<end_of_turn> <end_of_utterance> <turn|> <|tool_response> <eos> </s> <EOT> _<EOT> [EOT] [EOS] [e~[ "
    "<|fim_prefix|> <fim-prefix> <fim_prefix> <|code_prefix|> <|prefix|> <PRE> \u2581<PRE> "
    "<|fim_suffix|> <fim-suffix> <fim_suffix> <|code_suffix|> <|suffix|> <SUF> \u2581<SUF> "
    "<|fim_middle|> <fim-middle> <fim_middle> <|code_middle|> <|middle|> <MID> \u2581<MID> "
    "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|>"
)
_NO_TEXT = frozenset(_ENDS_AND_GAPS.split(" "))
"""Ends of turns and fill-in-the-middle marks of code: llama.cpp never reads them as text, whatever their kind."""


@dataclass(frozen=True)
class Split:
    """How a byte-level text is split before merging.

    Attributes:
        rules: Regular expressions; each splits the parts that the previous one left.
        whole: Whether a part that is a token as a whole becomes that token, whatever the merges say.
        begins: Whether a text begins with BOS if the file does not say.
        has_bos: Whether the models have a BOS although the file does not ask for it.
    """

    rules: tuple[str, ...]
    whole: bool = False
    begins: bool = False
    has_bos: bool = True


_ENDINGS = "'s|'t|'re|'ve|'m|'ll|'d"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = rf"{_ENDINGS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_WORD = rf"(?i:{_ENDINGS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+"

_KINDS: tuple[tuple[Split, str], ...] = (
    (Split((_GPT2,)), "gpt-2 phi-2 mpt olmo jais trillion granite-docling mellum exaone4 gigachat"),
    (Split((r"\p{N}", _GPT2)), "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    (Split((rf"{_WORD}|\p{{N}}|{_SIGNS}[\r\n]*|{_SPACES}",), has_bos=False), "qwen2"),
    (
        Split((rf"{_WORD}|\p{{N}}|{_SIGNS}[\r\n]*|{_SPACES}",)),
        "stablelm2 deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open",
    ),
    (
        Split((rf"{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}[\r\n]*|{_SPACES}",), whole=True, begins=True),
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    ),
    (Split((rf"{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}[\r\n]*|{_SPACES}",)), "dbrx smaug-bpe"),
)
SPLITS = {name: split for split, names in _KINDS for name in names.split()}
"""Name of a rule, as files have it in ``tokenizer.ggml.pre`` → how it splits.

``tekken`` and ``gpt-4o`` are left out: llama.cpp's rule differs from the models' own in scripts with combining marks.
"""

# Keys that change no token id of a text: chat templates, the file of another tokenizer, and tokens for other uses.
_BESIDES = ("tokenizer.chat_template", "tokenizer.huggingface.", _PREFIX)
_NO_MATTER = (
    *(f"{name}_token_id" for name in ("seperator", "separator", "mask", "cls", "eot", "eom", "prefix", "suffix")),
    *(f"{name}_token_id" for name in ("middle", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")),
    "token_type_count",
    "suppress_tokens",
)


def write(file: GgufFile, folder: Path) -> dict[str, int]:
    """Write the tokenizer's two files.

    Args:
        file: The GGUF file.
        folder: The folder to write into.

    Returns:
        The ids of BOS, EOS and padding that the model has, under config.json's names.

    Raises:
        ModelError: If the tokenizer is of another kind, splits by a rule that is not in the table, or has a setting
            that would not be used.
    """
    for key, value in file.settings.items():
        if key.startswith("tokenizer.") and not key.startswith(_BESIDES):
            raise errors.gguf_setting(str(file.path), key, value)
    settings = _Vocabulary(file)
    settings.check()
    tokenizer = settings.tokenizer()
    ids = settings.ids()
    names = {f"{role}_token": settings.tokens[id_] for role, id_ in ids.items()}
    _mark(tokenizer, settings, ids)
    _surround(tokenizer, settings, ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    described: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **names,
    }
    text = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return {f"{role}_token_id": id_ for role, id_ in ids.items() if role != "unk"}


class _Vocabulary:
    """The tokenizer's settings in the file."""

    def __init__(self, file: GgufFile) -> None:
        self.where = str(file.path)
        self.all = {key[len(_PREFIX) :]: value for key, value in file.settings.items() if key.startswith(_PREFIX)}
        self.kind = str(self._used("model", ""))
        if self.kind not in {"gpt2", "llama"}:
            raise errors.gguf_tokenizer(self.where, self.kind)
        self.tokens = self._list("tokens", str)
        self.types = self._list("token_type", int) or [_NORMAL] * len(self.tokens)
        self.scores = self._list("scores", float)
        self.merges = self._list("merges", str)
        pre = str(self._used("pre", "default"))
        if self.kind == "gpt2" and pre not in SPLITS:
            raise errors.gguf_pre_tokenizer(self.where, pre, SPLITS)
        self.split = SPLITS[pre] if self.kind == "gpt2" else Split((), begins=True)
        self.prefixed = bool(self._used("add_space_prefix", self.kind == "llama")) and self.kind == "llama"
        self.begins = bool(self._used("add_bos_token", self.split.begins))
        self.ends = bool(self._used("add_eos_token", False))
        self.roles = {role: self._used(key, None) for role, key in _ROLES.items()}

    def _used(self, key: str, usual: Value | None) -> Value | None:
        return self.all.pop(key, usual)

    def _list(self, key: str, kind: type[Any]) -> list[Any]:
        values = self.all.pop(key, [])
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise errors.gguf_broken(self.where, f"its {_PREFIX}{key} is no list of {kind.__name__}")
        return values

    def check(self) -> None:
        """Refuse a vocabulary that contradicts itself, and settings that would not be used."""
        count = len(self.tokens)
        needed = {"tokens": True, "merges": self.kind == "gpt2", "scores": self.kind == "llama" and not self.merges}
        for key, value in (("tokens", self.tokens), ("merges", self.merges), ("scores", self.scores)):
            if needed[key] and not value:
                raise errors.gguf_broken(self.where, f"it has no {_PREFIX}{key}")
        if self.kind == "llama" and self.merges:
            raise errors.gguf_setting(self.where, f"{_PREFIX}merges", f"{len(self.merges)} merges beside model 'llama'")
        for key, values in (("token_type", self.types), ("scores", self.scores)):
            if values and len(values) != count:
                raise errors.gguf_broken(self.where, f"it has {count} tokens, and {len(values)} of {_PREFIX}{key}")
        self.tokens = [token or f"[EMPTY_{id_}]" for id_, token in enumerate(self.tokens)]
        if len(set(self.tokens)) != count:
            raise errors.gguf_broken(self.where, "its vocabulary holds a token twice")
        for key in _NO_MATTER:
            self.all.pop(key, None)
        for key, setting in self.all.items():
            if setting is not False and setting != "":  # such as remove_extra_whitespaces, or a map of characters
                raise errors.gguf_setting(self.where, f"{_PREFIX}{key}", setting)

    def ids(self) -> dict[str, int]:
        """Return the ids of the special tokens, by role, such as ``bos``."""
        usual = _SENTENCEPIECE if self.kind == "llama" else {}
        ids: dict[str, int] = {}
        for role, stated_id in self.roles.items():
            id_ = usual.get(role) if stated_id is None else stated_id
            if role == "bos" and not self.begins and not self.split.has_bos:
                continue  # the file states one, but it is the token that ended texts in training
            if id_ is None:
                continue
            if isinstance(id_, bool) or not isinstance(id_, int) or not 0 <= id_ < len(self.tokens):
                raise errors.gguf_setting(self.where, f"{_PREFIX}{_ROLES[role]}", id_)
            ids[role] = id_
        return ids

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer without its special tokens."""
        vocabulary = {token: id_ for id_, token in enumerate(self.tokens)}
        if self.kind == "gpt2":
            merges = [self._halves(merge, vocabulary) for merge in self.merges]
            tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=self.split.whole))
            steps: list[Any] = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in self.split.rules]
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
            tokenizer.decoder = decoders.ByteLevel()
            return tokenizer
        unknown = self.tokens[self.ids()["unk"]]
        model = models.BPE(
            vocab=vocabulary, merges=self._by_score(vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
        tokenizer = Tokenizer(model)
        escaped = normalizers.Replace(" ", _BLANK)
        prefix = [normalizers.Prepend(_BLANK)] if self.prefixed else []
        tokenizer.normalizer = normalizers.Sequence([*prefix, escaped])
        last = [decoders.Strip(" ", 1, 0)] if self.prefixed else []
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), *last]
        )
        return tokenizer

    def _halves(self, merge: str, vocabulary: dict[str, int]) -> tuple[str, str]:
        at = merge.find(" ", 1)  # a token may begin with a blank
        left, right = merge[:at], merge[at + 1 :]
        if at < 0 or not {left, right, left + right} <= vocabulary.keys():
            raise errors.gguf_broken(self.where, f"its merge {merge!r} is not of tokens of its vocabulary")
        return left, right

    def _by_score(self, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
        """Return all merges in SentencePiece's order: those that make the token with the best score come first."""
        usable = {token: id_ for token, id_ in vocabulary.items() if self.types[id_] == _NORMAL}
        pairs = []
        for token, id_ in usable.items():
            for at in range(1, len(token)):
                left, right = token[:at], token[at:]
                if left in usable and right in usable:
                    pairs.append((-self.scores[id_], id_, usable[left], left, right))
        return [(left, right) for *_, left, right in sorted(pairs)]


def _mark(tokenizer: Tokenizer, settings: _Vocabulary, ids: dict[str, int]) -> None:
    """Tell the tokenizer which tokens are special, and which it must find in a text before it splits the text."""
    special = set(ids.values())
    control, ordinary = [], []
    for id_, (token, kind) in enumerate(zip(settings.tokens, settings.types, strict=True)):
        if kind in {_CONTROL, _UNKNOWN} or id_ in special or (kind == _USER_DEFINED and token in _NO_TEXT):
            control.append(AddedToken(token, normalized=False, special=True))
        elif kind == _USER_DEFINED:
            ordinary.append(AddedToken(token, normalized=False, special=False))
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(ordinary)
    if tokenizer.get_vocab_size() != len(settings.tokens):
        raise errors.gguf_broken(settings.where, "its special tokens are not in its vocabulary")


def _surround(tokenizer: Tokenizer, settings: _Vocabulary, ids: dict[str, int]) -> None:
    """Make the tokenizer put BOS before and EOS after each text, if the file says so."""
    before = ["bos"] if settings.begins else []
    after = ["eos"] if settings.ends else []
    for role in (*before, *after):
        if role not in ids:
            raise errors.gguf_broken(settings.where, f"it asks for {role.upper()} around texts and names none")
    if not before and not after:
        return
    tokens = {role: settings.tokens[ids[role]] for role in (*before, *after)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*(tokens[role] for role in before), "$A", *(tokens[role] for role in after)],
        special_tokens=[(tokens[role], ids[role]) for role in tokens],
    )
