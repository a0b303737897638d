"""A piece's ids are the original tokenizer's, less its habits at the edges, and never a special token's."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from echoembed.errors import ModelError, TextError
from echoembed.prompts.pieces import Piece, PieceTokenizer, no_panic
from tokenizers_for_tests import (
    BUILT,
    ORDINARY_TOKEN,
    SENTENCES,
    SPELLED,
    bounded,
    every_built_tokenizer,
    every_real_tokenizer,
    every_tokenizer,
    hostile_texts,
    original_ids,
    pieces,
    tokenizer,
    unspelled_texts,
    why_refused,
)

LEADING_BLANK = {
    "gpt2-style": "never",
    "prefixed-byte-level": "missing",
    "llama3-style": "never",
    "llama2-style": "always",
    "unigram-first": "missing",
    "xlmr-style": "never",  # every word has its own
    "bert-style": "never",
    "gpt2": "never",
    "openai-gpt": "never",
    "gpt-neox-20b": "never",
    "llama-2": "always",
    "mistral-v1": "always",
    "mistral-v3": "always",
    "llama-3": "never",
    "qwen": "never",
}
ENDS = {  # token that begins a text, token that ends it
    "gpt2-style": ("<|endoftext|>", "<|endoftext|>"),
    "prefixed-byte-level": ("<s>", "</s>"),
    "llama3-style": ("<|begin_of_text|>", "<|end_of_text|>"),
    "llama2-style": ("<s>", "</s>"),
    "unigram-first": ("<s>", "</s>"),
    "xlmr-style": ("<s>", "</s>"),
    "bert-style": ("[CLS]", "[SEP]"),
    "gpt2": ("<|endoftext|>", "<|endoftext|>"),
    "openai-gpt": (None, None),
    "gpt-neox-20b": ("<|endoftext|>", "<|endoftext|>"),
    "llama-2": ("<s>", "</s>"),
    "mistral-v1": ("<s>", "</s>"),
    "mistral-v3": ("<s>", "</s>"),
    "llama-3": ("<|begin_of_text|>", "<|end_of_text|>"),
    "qwen": (None, "<|endoftext|>"),
}


def encoded(name: str, text: str) -> Piece | None:
    """The piece, or None where the text cannot but yield a special token and is refused for it."""
    refused = why_refused(lambda: pieces(name).encode([text]))
    assert "spells a special token" in refused or not refused
    return None if refused else pieces(name).encode([text])[0]


def with_blank(name: str, text: str) -> str:
    """The text with the blank that the original tokenizer would put in front of it."""
    leading = pieces(name).leading_blank
    # "▁" is how SentencePiece spells a blank, so a text that begins with it has one there.
    blanks = (" ", "▁") if name == "unigram-first" else " "
    return " " + text if leading == "always" or (leading == "missing" and not text.startswith(blanks)) else text


@every_tokenizer
def test_rule_for_the_leading_blank_is_found(name):
    assert pieces(name).leading_blank == LEADING_BLANK[name]


@every_tokenizer
def test_first_and_last_token_are_found(name):
    ids = (pieces(name).bos, pieces(name).eos)
    assert tuple(id_ if id_ is None else pieces(name).token(id_) for id_ in ids) == ENDS[name]


@every_tokenizer
def test_ids_are_the_originals_once_the_leading_blank_is_given_back(name):
    @bounded
    @given(unspelled_texts)
    def check(text):
        assert list(pieces(name).encode([with_blank(name, text)])[0].ids) == original_ids(name, text)

    check()


@every_tokenizer
@pytest.mark.parametrize("text", ["boat", " boat", "  boat", "▁boat", "▁", "Ġboat", "\u00a0boat", "\tboat", "\nboat"])
def test_the_blank_that_a_text_is_given_is_the_originals(name, text):
    spaced = " " + text if pieces(name).begins_with_blank(text) else text
    assert list(pieces(name).encode([spaced])[0].ids) == original_ids(name, text)


@every_tokenizer
def test_a_piece_begins_without_a_blank_of_its_own(name):
    if LEADING_BLANK[name] == "never":
        assert pieces(name).encode(["boat"])[0].ids == tuple(original_ids(name, "boat"))
    else:
        assert pieces(name).encode(["boat"])[0].ids != tuple(original_ids(name, "boat"))
        assert pieces(name).encode([" boat"])[0].ids == tuple(original_ids(name, "boat"))


@every_tokenizer
def test_text_that_spells_a_special_token_never_becomes_one(name):
    @bounded
    @given(hostile_texts, st.sampled_from(SPELLED), hostile_texts)
    def check(before, spelled, after):
        for text in (spelled, before + spelled + after, f"{before} {spelled}{spelled} {after}"):
            piece = encoded(name, text)
            assert piece is None or pieces(name).special_ids.isdisjoint(piece.ids)

    check()


@every_tokenizer
def test_every_special_token_can_be_written_as_text(name):
    for id_ in sorted(pieces(name).special_ids)[:40]:
        token = pieces(name).token(id_)
        for text in (token, f"a {token} b", token * 3, token.upper(), f"\n{token}"):
            assert pieces(name).special_ids.isdisjoint(pieces(name).encode([text])[0].ids), text


@pytest.mark.parametrize("name", ["gpt2-style", "llama3-style", "llama2-style", "bert-style", "gpt2", "mistral-v1"])
def test_a_special_token_written_as_text_is_read_as_if_there_were_none_of_that_name(name):
    backend = json.loads(pieces(name)._tokenizer.to_str())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["content"] == ORDINARY_TOKEN]
    plain = Tokenizer.from_str(json.dumps(backend))
    for id_ in sorted(pieces(name).special_ids):
        text = f"a>{pieces(name).token(id_)}> b"
        assert list(pieces(name).encode([text])[0].ids) == plain.encode(text, add_special_tokens=False).ids


@every_built_tokenizer
def test_the_original_does_make_special_tokens_of_them(name):
    """The guard of the two tests above: they are about something that happens."""
    token = pieces(name).token(min(pieces(name).special_ids))
    assert not pieces(name).special_ids.isdisjoint(original_ids(name, f"a {token} b"))


@pytest.mark.parametrize("name", ["unigram-first", "xlmr-style"])
def test_a_vocabulary_that_holds_special_tokens_as_words_is_read_around_them(name):
    backend = pieces(name)._tokenizer
    assert not pieces(name).special_ids.isdisjoint(backend.encode("a <s> b", add_special_tokens=False).ids)
    assert pieces(name).special_ids.isdisjoint(pieces(name).encode(["a <s> b"])[0].ids)


def test_text_that_turns_into_a_special_token_while_it_is_normalised_is_refused():
    with pytest.raises(TextError, match="spells a special token that this tokenizer cannot read as text"):
        pieces("unigram-first").encode(["\uff1cs\uff1e"])


@every_built_tokenizer
def test_an_ordinary_added_token_stays_one_token(name):
    id_ = tokenizer(name).convert_tokens_to_ids(ORDINARY_TOKEN)
    assert id_ not in pieces(name).special_ids
    assert id_ in pieces(name).encode([f"a {ORDINARY_TOKEN} b"])[0].ids


def test_unknown_may_stand_in_a_text():
    piece = pieces("bert-style").encode(["\u16a0\u16a1"])[0]
    assert piece.ids == (tokenizer("bert-style").unk_token_id,)


@every_tokenizer
def test_ends_count_characters_and_never_go_back(name):
    @bounded
    @given(hostile_texts)
    def check(text):
        piece = encoded(name, text)
        if piece is None:
            return
        assert len(piece.ends) == len(piece.ids)
        assert all(0 <= one <= other <= len(text) for one, other in pairwise((0, *piece.ends, len(text))))

    check()


@pytest.mark.parametrize("name", ["gpt2-style", "llama3-style", "llama2-style", "gpt2", "mistral-v1", "llama-3"])
def test_the_text_before_an_end_is_what_the_tokens_before_it_say(name):
    for sentence in SENTENCES[:8]:
        text = " " + sentence
        piece = pieces(name).encode([text])[0]
        backend = tokenizer(name).backend_tokenizer
        assert piece.ends[-1] == len(text)
        for count in range(1, len(piece.ids) + 1):
            shown = backend.decode(list(piece.ids[:count]), skip_special_tokens=False)
            assert shown.strip() == text[: piece.ends[count - 1]].strip()


@every_tokenizer
def test_a_piece_does_not_depend_on_its_neighbours_in_the_batch(name):
    texts = [*SENTENCES, "</s>", "a <s> b"]
    assert pieces(name).encode(texts) == [pieces(name).encode([text])[0] for text in texts]


@every_built_tokenizer
def test_marker_is_the_added_token_of_that_name_else_its_text(name):
    first = pieces(name).token(pieces(name).bos)
    assert pieces(name).marker(first) == (pieces(name).bos,)
    assert pieces(name).marker(ORDINARY_TOKEN) == (tokenizer(name).convert_tokens_to_ids(ORDINARY_TOKEN),)
    assert pieces(name).marker("in one word:") == pieces(name).encode(["in one word:"])[0].ids


@every_built_tokenizer
def test_special_tokens_are_found_in_a_literal(name):
    first = pieces(name).token(pieces(name).bos)
    assert pieces(name).special_in(f"before {first}after") == first
    assert pieces(name).special_in(f"before {ORDINARY_TOKEN}after") is None


@every_built_tokenizer
def test_the_original_is_left_as_it_was(name):
    fresh = BUILT[name]()
    before = fresh.backend_tokenizer.to_str()
    PieceTokenizer(fresh).encode(["</s> The boat"])
    assert fresh.backend_tokenizer.to_str() == before
    assert fresh.backend_tokenizer.encode_special_tokens is False


@every_built_tokenizer
def test_padding_and_truncation_of_the_original_are_not_taken_over(name):
    fresh = BUILT[name]()
    fresh.backend_tokenizer.enable_truncation(4)
    fresh.backend_tokenizer.enable_padding(length=64)
    assert PieceTokenizer(fresh).encode(SENTENCES) == pieces(name).encode(SENTENCES)


def test_merges_that_the_original_leaves_out_at_random_are_always_made():
    fresh = BUILT["gpt2-style"]()
    fresh.backend_tokenizer.model.dropout = 0.5
    assert len({tuple(fresh.backend_tokenizer.encode(SENTENCES[0]).ids) for _ in range(9)}) > 1
    assert PieceTokenizer(fresh).encode(SENTENCES) == pieces("gpt2-style").encode(SENTENCES)


@every_built_tokenizer
def test_empty_piece_has_no_tokens(name):
    assert pieces(name).encode([""]) == [Piece((), ())]


@every_real_tokenizer
def test_a_very_long_word_is_read_in_good_time(name):
    assert len(pieces(name).encode(["ab" * 50_000])[0].ids) > 1000


def test_a_blank_that_the_normaliser_alone_puts_is_taken_out():
    """A lone Prepend, outside a sequence; and both kinds of rule in one tokenizer."""
    backend = Tokenizer(models.WordLevel({"▁a": 0, "a": 1, "?": 2}, unk_token="?"))
    backend.normalizer = normalizers.Prepend("▁")

    class Wrapped:
        backend_tokenizer = backend
        bos_token_id = eos_token_id = cls_token_id = sep_token_id = pad_token_id = None
        unk_token_id = 2
        all_special_ids = (2,)

    assert backend.encode("a").ids == [0]
    assert PieceTokenizer(Wrapped()).encode(["a"])[0].ids == (1,)
    assert PieceTokenizer(Wrapped()).leading_blank == "always"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    assert PieceTokenizer(Wrapped()).encode(["a"])[0].ids == (1,)


def test_a_tokenizer_without_exact_offsets_is_refused():
    class PythonTokenizer:
        pass

    message = "The model's tokenizer is a PythonTokenizer, which has no 'tokenizers' backend."
    with pytest.raises(ModelError, match=re.escape(message)):
        PieceTokenizer(PythonTokenizer())


# Tokens added to the vocabulary, and tokenizers that break down.


def wrapped(backend: Tokenizer) -> PieceTokenizer:
    """A tokenizer of the library, with no special token."""

    class Wrapped:
        backend_tokenizer = backend
        bos_token_id = eos_token_id = cls_token_id = sep_token_id = pad_token_id = unk_token_id = None
        all_special_ids = ()

    return PieceTokenizer(Wrapped())


ADDED = [
    AddedToken(content, normalized=normalized, single_word=single_word, lstrip=lstrip, rstrip=rstrip)
    for content in ("zebra", "two words", "é", "<tool>")
    for normalized in (False, True)
    for single_word, lstrip, rstrip in ((False, False, False), (True, False, False), (False, True, False))
]


@pytest.mark.parametrize("added", ADDED, ids=str)
@every_built_tokenizer
def test_texts_with_added_tokens_are_read_as_the_original_reads_them_or_the_tokenizer_is_refused(name, added):
    fresh = BUILT[name]()
    fresh.backend_tokenizer.add_tokens([added])
    word = added.content
    texts = [word, f"the {word} sat", f"{word} sat", f"the {word}", f"a{word}b", f"{word}{word} {word}", f"  {word}  ."]
    try:
        own = PieceTokenizer(fresh)
    except ModelError as error:
        if "added token" not in str(error):
            raise
        return
    for text in [*texts, *SENTENCES[:3]]:
        spaced = " " + text if own.begins_with_blank(text) else text
        assert list(own.encode([spaced])[0].ids) == fresh.backend_tokenizer.encode(text, add_special_tokens=False).ids


BROKEN = {
    "a table of characters that is cut off": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}
    },
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "no id for what is unknown": {"model": {"type": "Unigram", "unk_id": None, "vocab": [["z", -1.0]]}},
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_tokenizer_that_breaks_down_over_everything_is_refused(broken):
    backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    description = json.loads(backend.to_str()) | BROKEN[broken]
    with pytest.raises(ModelError, match="The model's tokenizer failed"), no_panic():
        wrapped(Tokenizer.from_str(json.dumps(description)))


def test_a_tokenizer_whose_own_file_cannot_be_read_again_is_refused():
    twice = models.BPE(vocab={"a": 0, "b": 1, "ab": 1}, merges=[("a", "b")])  # an id of two tokens: one is not written
    with pytest.raises(ModelError, match="The model's tokenizer failed") as caught:
        wrapped(Tokenizer(twice))
    assert len(str(caught.value).splitlines()) == 1


def test_a_text_over_which_the_tokenizer_breaks_down_is_named_and_the_others_are_read():
    scored = [("a", -1.0), (" ", -1.0), ("b", -1.0)]
    own = wrapped(Tokenizer(models.Unigram(scored, None, byte_fallback=False)))
    assert [piece.ids for piece in own.encode(["a b", "b"])] == [(0, 1, 2), (2,)]
    with pytest.raises(TextError, match="breaks down over the text 'a c': 'Encountered an unknown token"):
        own.encode(["a b", "a c", "b"])
