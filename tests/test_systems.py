"""Every row of the table against a second, plain computation: one text, no padding, no batch, no shortcut.

The prompts are written out here once more, by hand: whole strings, which the model's own tokenizer reads in one go,
and special tokens by id. The model is the plain one of transformers, with eager attention under a mask that is
spelled out. The rest is numpy. Nothing of echoembed is used but ``load`` and ``encode``.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

import echoembed
import tiny_models
from echoembed.sources.resolve import Source

TOLERANCE = 1e-5
WEB = "Given a web search query, retrieve relevant passages that answer the query"
OWN = "Retrieve sentences that mean the same"

# How each family begins and ends a text.
BOS = {"llama": "<s>", "mistral": "<s>", "qwen3": None, "gemma2": "<bos>", "gpt2": "<|endoftext|>"}
BOS |= {"gptj": "<|endoftext|>", "bloom": "<s>", "bert": "[CLS]", "roberta": "<s>", "xlm-roberta": "<s>"}
EOS = {"gpt2": "<|endoftext|>", "mistral": "</s>", "bert": "[SEP]", "roberta": "</s>", "xlm-roberta": "</s>"}
# Most tokens that the tiny models read. BLOOM's positions have no end.
CONTEXT = {"bert": 64, "roberta": 64, "xlm-roberta": 64, "bloom": None}


@dataclass(frozen=True)
class Part:
    """Words, which are tokenised together with the words next to them, or one token by its name."""

    content: str
    pooled: bool = False
    is_id: bool = False


def words(content: str, *, pooled: bool = False) -> Part:
    return Part(content, pooled)


def token(name: str, *, pooled: bool = False) -> Part:
    return Part(name, pooled, is_id=True)


bos, eos = token("BOS"), token("EOS")
pooled_bos, pooled_eos = token("BOS", pooled=True), token("EOS", pooled=True)


@dataclass(frozen=True)
class System:
    """A row, as the paper and the publications describe it."""

    families: tuple[str, ...]
    query: list[Part]
    document: list[Part]
    pooling: str = "mean"
    attention: str = "causal"
    budget: int = 512
    instruction: str = ""
    adapters: int = 0
    prepared: bool = False
    """Whether PromptEOL's preparation comes first."""
    depth: float = 1.0
    calibration: str = "none"
    beside: tuple[System, ...] = ()
    """Further prompts, each a system of its own."""
    join: str = "concatenate"


ZERO_SHOT = ("mistral", "llama", "qwen3", "gemma2", "gpt2")
ECHO = [
    bos,
    words("Rewrite the following paragraph:"),
    words(" TEXT"),
    words(" The rewritten paragraph:"),
    words(" TEXT", pooled=True),
]
CLASSICAL = [bos, words("Write a paragraph:"), words(" TEXT", pooled=True)]
PROMPTEOL = [bos, words('This sentence : "'), words("TEXT"), words('." means in one word:"', pooled=True)]
END = words('." means in one word:"', pooled=True)
NEWLINE_ECHO = [*ECHO[:3], words("\nThe rewritten paragraph:"), words(" TEXT", pooled=True)]
THREE = [*ECHO[:4], words(" TEXT"), words(" Once more:"), words(" TEXT", pooled=True)]
CHATML = [
    bos,
    words("user\nRewrite the following paragraph:"),
    words(" TEXT"),
    eos,
    words("\n"),
    bos,
    words("assistant\n"),
    words(" TEXT", pooled=True),
]
ONE_WORD = [*ECHO[:3], words(' The rewritten paragraph : "'), words(" TEXT"), END]
COT = [bos, words('After thinking step by step , this sentence : "'), words("TEXT"), END]
KNOWLEDGE = [
    bos,
    words(
        "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms provide "
        'additional but less central details. With this in mind , this sentence : "'
    ),
    words("TEXT"),
    END,
]
META = [
    [bos, words(f'{asked} , this sentence : "'), words("TEXT"), END]
    for asked in (
        "Texts are sorted by topic , such as sports , science or politics . By its topic",
        "A writer can be pleased or not . By how its writer feels",
        "The same can be said in other words . By its meaning",
        "A text is about somebody or something . By what it is about",
    )
]
WHOLE = [pooled_bos, words("TEXT", pooled=True), pooled_eos]
CHAT = [
    bos,
    words("[INST]"),
    words(" INSTRUCTION"),
    words(" TEXT", pooled=True),
    words(" [/INST]", pooled=True),
]
CHAT_DOCUMENT = [bos, words("[INST]"), words(" TEXT", pooled=True), words(" [/INST]", pooled=True)]
SEARCH = [pooled_bos, words("Represent this sentence for searching relevant passages:"), words(" TEXT"), eos]
CLASSICAL_QUERY = [bos, words("Instruct:"), words(" INSTRUCTION"), words(", \nQuery:"), words(" TEXT"), pooled_eos]
CLASSICAL_DOCUMENT = [bos, words("Document:"), words(" TEXT"), pooled_eos]


def echo_query(*, pooled: bool) -> list[Part]:
    start = [bos, words("Instruct:"), words(" INSTRUCTION"), words(", \nQuery:"), words(" TEXT")]
    return [*start, words(" \nQuery again:"), words(" TEXT", pooled=pooled), pooled_eos]


def echo_document(*, pooled: bool) -> list[Part]:
    start = [bos, words("Document:"), words(" TEXT"), words(" \nDocument again:")]
    return [*start, words(" TEXT", pooled=pooled), pooled_eos]


BAG = System(ZERO_SHOT[1:3], CLASSICAL, CLASSICAL, depth=1 / 3, calibration="z-components-16")
TUNED_BAG = replace(BAG, calibration="components-8")

SYSTEMS = {
    "echo": System(ZERO_SHOT, ECHO, ECHO),
    "echo-compute-matched": System(ZERO_SHOT[:2], ECHO, ECHO, budget=256),
    "echo-last": System(ZERO_SHOT[:3], ECHO, ECHO, "last"),
    "classical": System(ZERO_SHOT, CLASSICAL, CLASSICAL),
    "classical-last": System(ZERO_SHOT[:2], CLASSICAL, CLASSICAL, "last"),
    "classical-bidirectional": System(ZERO_SHOT, CLASSICAL, CLASSICAL, attention="bidirectional"),
    "prompteol": System(ZERO_SHOT, PROMPTEOL, PROMPTEOL, "last", prepared=True),
    "echo-deep": System(ZERO_SHOT[1:4], NEWLINE_ECHO, NEWLINE_ECHO, depth=0.8, calibration="components-8"),
    "echo-tuned": System(
        ZERO_SHOT[1:3], PROMPTEOL, PROMPTEOL, "last", prepared=True, calibration="z-score", beside=(TUNED_BAG,)
    ),
    "prompteol-bag": System(
        ZERO_SHOT[1:3], PROMPTEOL, PROMPTEOL, "last", prepared=True, calibration="z-components-8", beside=(BAG,)
    ),
    "bag-of-words": BAG,
    "echo-3": System(ZERO_SHOT[:3], THREE, THREE),
    "echo-chat": System(("gpt2",), CHATML, CHATML),
    "echo-one-word": System(ZERO_SHOT[:3], ONE_WORD, ONE_WORD, "last", prepared=True),
    "prompteol-cot": System(ZERO_SHOT[:3], COT, COT, "last", prepared=True),
    "prompteol-knowledge": System(ZERO_SHOT[:3], KNOWLEDGE, KNOWLEDGE, "last", prepared=True),
    "metaeol": System(
        ZERO_SHOT[:3],
        META[0],
        META[0],
        "last",
        prepared=True,
        beside=tuple(System((), parts, parts, "last", prepared=True) for parts in META[1:]),
        join="mean",
    ),
    "bert-large": System(("bert",), WHOLE, WHOLE, attention="bidirectional"),
    "roberta-large": System(("roberta",), WHOLE, WHOLE, attention="bidirectional"),
    "llm2vec-unsupervised": System(
        ("mistral",),
        CHAT,
        CHAT_DOCUMENT,
        attention="bidirectional",
        budget=400,
        instruction="Retrieve semantically similar text:",
        adapters=2,
    ),
    "echo-finetuned-last": System(
        ("mistral",), echo_query(pooled=False), echo_document(pooled=False), "last", budget=300, instruction=WEB
    ),
    "echo-finetuned-mean": System(
        ("mistral",), echo_query(pooled=True), echo_document(pooled=True), budget=300, instruction=WEB
    ),
    "classical-finetuned": System(
        ("mistral",), CLASSICAL_QUERY, CLASSICAL_DOCUMENT, "last", budget=300, instruction=WEB
    ),
    "bidirectional-finetuned": System(
        ("mistral",), CLASSICAL_QUERY, CLASSICAL_DOCUMENT, "last", "bidirectional", budget=300, instruction=WEB
    ),
    "llm2vec-supervised": System(
        ("mistral",),
        CHAT,
        CHAT_DOCUMENT,
        attention="bidirectional",
        budget=400,
        instruction=WEB + ":",
        adapters=2,
    ),
    "gritlm-7b": System(
        ("mistral",),
        [bos, words("<|user|>\n"), words("INSTRUCTION"), words("\n<|embed|>\n"), words("TEXT", pooled=True)],
        [bos, words("<|embed|>\n"), words("TEXT", pooled=True)],
        attention="bidirectional",
        budget=2048,
        instruction=WEB,
    ),
    "e5-mistral-7b": System(
        ("mistral",),
        [bos, words("Instruct:"), words(" INSTRUCTION"), words("\nQuery:"), words(" TEXT"), pooled_eos],
        [bos, words("TEXT"), pooled_eos],
        "last",
        budget=4096,
        instruction=WEB,
    ),
    "sgpt-5.8b": System(
        ("gptj",),
        [token("[", pooled=True), words("TEXT", pooled=True), token("]", pooled=True)],
        [token("{", pooled=True), words("TEXT", pooled=True), token("}", pooled=True)],
        "weighted-mean",
        budget=298,
    ),
    "udever-bloom-7b": System(
        ("bloom",),
        [token("[BOQ]"), words("TEXT"), token("[EOQ]", pooled=True)],
        [token("[BOD]"), words("TEXT"), token("[EOD]", pooled=True)],
        "last",
        budget=298,
    ),
    "bge-large-en-v1.5": System(("bert",), SEARCH, [pooled_bos, words("TEXT"), eos], "first", "bidirectional"),
    "uae-large-v1": System(("bert",), SEARCH, [pooled_bos, words("TEXT"), eos], "first", "bidirectional"),
    "multilingual-e5-large": System(
        ("xlm-roberta",),
        [pooled_bos, words("query:", pooled=True), words(" TEXT", pooled=True), pooled_eos],
        [pooled_bos, words("passage:", pooled=True), words(" TEXT", pooled=True), pooled_eos],
        attention="bidirectional",
    ),
}

TEXTS = [
    "the cat sat on a mat.",
    "The river carried its boats to the harbour, where nobody waits?",
    "Rain",
    'She said "no" twice, and then (again): na\u00efve \u65e5\u672c\u8a9e \U0001f642!',
    "Two boats in the rain.\nThe second line has\ta tab and  two blanks.",
    "</s> [SEP] <s> is text, and {text} too",
]
CALIBRATED_ON = tuple(
    f"{first} {second} on a mat while {first} fell"
    for first in ("cat", "rain", "town", "the river")
    for second in ("sat", "carried", "boats", "nobody", "waits")
)
# Its Unigram vocabulary holds "</s>" as a word, so that no plain tokenisation reads this text as text.
NOT_PLAIN = {"xlm-roberta": TEXTS[-1]}


def long_text(length: int) -> str:
    """Some more words than ``length``, in an order that does not repeat soon."""
    simple = [word for word in tiny_models.WORDS if word.isalpha() and word.islower()]
    return " ".join(simple[(index * index + index // 7) % len(simple)] for index in range(length + 40))


# The second computation


@dataclass(frozen=True)
class Prompt:
    """Ids of a prompt, whether each is pooled, and the tokens of the text's first copy as offsets in the text."""

    ids: list[int]
    pooled: list[bool]
    text_ends: list[int]
    copies: int


def read_plainly(tokenizer: Tokenizer, family: str, parts: list[Part], text: str, instruction: str) -> Prompt:
    """Words next to each other are joined and tokenised in one go; offsets tell which token belongs to which part."""
    ids: list[int] = []
    pooled: list[bool] = []
    text_ends: list[int] = []
    copies = 0
    parts = [part for part in parts if part.content != "BOS" or BOS[family]]
    at = 0
    while at < len(parts):
        if parts[at].is_id:
            name = {"BOS": BOS[family], "EOS": EOS.get(family)}.get(parts[at].content, parts[at].content)
            ids.append(tokenizer.token_to_id(name))
            pooled.append(parts[at].pooled)
            at += 1
            continue
        run = []
        while at < len(parts) and not parts[at].is_id:
            run.append(parts[at])
            at += 1
        strings = [part.content.replace("INSTRUCTION", instruction).replace("TEXT", text) for part in run]
        tokenizer.encode_special_tokens = True
        encoding = tokenizer.encode("".join(strings), add_special_tokens=False)
        bounds = np.cumsum([0, *map(len, strings)])
        owner = [int(np.searchsorted(bounds, end, side="left")) - 1 for _, end in encoding.offsets]
        starts = [start for start, _ in encoding.offsets]
        straddling = [
            name for start, name, own in zip(starts, encoding.tokens, owner, strict=True) if start < bounds[own]
        ]
        assert not straddling, f"tokens across a seam, where the two computations need not agree: {straddling}"
        ids += encoding.ids
        pooled += [run[index].pooled for index in owner]
        for index, part in enumerate(run):
            if "TEXT" in part.content:
                copies += 1
                shift = int(bounds[index]) + part.content.index("TEXT")
                text_ends = [end - shift for (_, end), own in zip(encoding.offsets, owner, strict=True) if own == index]
    return Prompt(ids, pooled, text_ends, copies)


def prompt_of(tokenizer: Tokenizer, family: str, system: System, parts: list[Part], text: str, instruction: str):
    """The prompt with as much of the text as budget and context allow."""
    if system.prepared:
        text = (text[:-1] if text[-1] in ".?" else text).replace('"', "'")
    whole = read_plainly(tokenizer, family, parts, text, instruction)
    room = system.budget
    context = CONTEXT.get(family, 2048)
    if context is not None:
        frame = len(whole.ids) - whole.copies * len(whole.text_ends)
        room = min(room, (context - frame) // whole.copies)
    if len(whole.text_ends) <= room:
        return whole
    cut = read_plainly(tokenizer, family, parts, text[: whole.text_ends[room - 1]], instruction)
    assert len(cut.text_ends) == room, "the cut text reads otherwise; take another long text"
    return cut


def states_of(model: torch.nn.Module, ids: list[int], attention: str, depth: float = 1.0) -> np.ndarray:
    """The states of one sequence at a depth, under a mask that names every pair of tokens."""
    length = len(ids)
    if model.config.model_type == "bloom":  # takes no such mask; without any it is causal
        assert attention == "causal"
        with torch.no_grad():
            return model(torch.tensor([ids]), use_cache=False).last_hidden_state[0].double().numpy()
    seen = torch.ones(length, length, dtype=torch.bool)
    seen = seen.tril() if attention == "causal" else seen
    mask = torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        output = model(torch.tensor([ids]), attention_mask=mask, output_hidden_states=True, use_cache=False)
    states = output.hidden_states
    return states[round(depth * (len(states) - 1))][0].double().numpy()


def calibration_of(system: System, family: str, tokenizer: Tokenizer, plain: torch.nn.Module):
    """The map that the row's calibration makes of the vectors of some texts."""
    if system.calibration == "none":
        return lambda vector: vector
    rows = []
    for text in CALIBRATED_ON:
        prompt = prompt_of(tokenizer, family, system, system.query, text, "")
        states = states_of(plain, prompt.ids, system.attention, system.depth)
        rows.append(vector_of(states, prompt.pooled, system.pooling, length=None))
    mean = np.mean(rows, axis=0)
    if system.calibration == "z-score":
        return lambda vector: (vector - mean) / np.std(rows, axis=0)
    kind, _, count = system.calibration.rpartition("-")
    assert kind in ("components", "z-components")
    deviation = np.std(rows, axis=0) if kind == "z-components" else 1.0
    widest = np.linalg.svd((rows - mean) / deviation)[2][: int(count)]
    return lambda vector: (vector - mean) / deviation - widest.T @ (widest @ ((vector - mean) / deviation))


def vector_of(states: np.ndarray, pooled: list[bool], pooling: str, calibrated=None, length=1.0) -> np.ndarray:
    chosen = states[np.array(pooled)]
    if pooling == "mean":
        vector = chosen.sum(axis=0) / len(chosen)
    elif pooling == "last":
        vector = chosen[-1]
    elif pooling == "first":
        vector = chosen[0]
    else:
        vector = sum((place + 1) * state for place, state in enumerate(chosen)) / sum(range(1, len(chosen) + 1))
    vector = vector if calibrated is None else calibrated(vector)
    return vector if length is None else vector / np.sqrt((vector**2).sum())


def plain_model(path: Path, adapters: list[Path]) -> torch.nn.Module:
    model = AutoModel.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    for folder in adapters:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return model.eval()


# The tests

CASES = [(row, family) for row, system in SYSTEMS.items() for family in system.families]


def test_every_row_has_its_system_here():
    assert sorted(SYSTEMS) == sorted(echoembed.recipes), "name a model here for each new row, and write its prompt"


@pytest.fixture
def no_warnings():
    """Rows that were trained say so on these random weights; long texts say that they are cut."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(("row", "family"), CASES)
def test_a_row_equals_its_plain_computation(row, family, monkeypatch, no_warnings, tmp_path):
    system = SYSTEMS[row]
    monkeypatch.setenv("ECHOEMBED_CACHE", str(tmp_path))
    monkeypatch.setattr("echoembed.model.calibrate.sentences", lambda: CALIBRATED_ON)
    folder = tiny_models.folder(family)
    adapters = [tiny_models.adapter(family, seed=seed) for seed in range(1, system.adapters + 1)]
    _serve_adapters(row, adapters, monkeypatch)
    recipe = replace(echoembed.recipes[row], tuned_for="")  # tiny models have no calibration in the package
    model = echoembed.load(folder, recipe=recipe, device="cpu")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain = plain_model(folder, adapters)
    texts = [text for text in TEXTS if text != NOT_PLAIN.get(family)]
    texts.append(long_text(min(system.budget, CONTEXT.get(family, 2048) or 512)))
    systems = (system, *system.beside)
    calibrations = [calibration_of(one, family, tokenizer, plain) for one in systems]

    for kind, parts in (("query", system.query), ("document", system.document)):
        encode = model.encode_query if kind == "query" else model.encode_document
        takes_instruction = any("INSTRUCTION" in part.content for part in parts)
        for given in ("", OWN) if takes_instruction else ("",):
            read = texts if not given else texts[:-1]
            found = encode(read, prompt=given or None, batch_size=len(read))
            assert found.dtype == np.float32
            for text, vector in zip(read, found, strict=True):
                shown = echoembed.render(model, text, kind=kind, instruction=given or None)
                vectors = []
                for one, calibrated, prompt_shown in zip(systems, calibrations, shown.all, strict=True):
                    prompt = prompt_of(tokenizer, family, one, getattr(one, kind), text, given or one.instruction)
                    assert list(prompt_shown.ids) == prompt.ids
                    states = states_of(plain, prompt.ids, one.attention, one.depth)
                    vectors.append(vector_of(states, prompt.pooled, one.pooling, calibrated))
                expected = np.concatenate(vectors) if system.join == "concatenate" else np.mean(vectors, axis=0)
                expected = expected / np.sqrt((expected**2).sum())
                assert (shown.dropped > 0) == (text == texts[-1]), "only the last text is meant to be over the budget"
                assert np.abs(vector - expected).max() < TOLERANCE, f"{kind}, instruction {given!r}: {text[:60]!r}"


@pytest.mark.parametrize("row", sorted(SYSTEMS))
def test_the_plain_computation_tells_systems_apart(row):
    """Another pooling, attention or span gives other vectors: agreement above is not for want of difference."""
    system = SYSTEMS[row]
    family = system.families[0]
    folder = tiny_models.folder(family)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain = plain_model(folder, [])
    prompt = prompt_of(tokenizer, family, system, system.query, TEXTS[1], system.instruction)
    states = states_of(plain, prompt.ids, system.attention)
    vector = vector_of(states, prompt.pooled, system.pooling)
    everything = [True] * len(prompt.ids)
    others = {}
    if family != "bloom":
        attention = "causal" if system.attention == "bidirectional" else "bidirectional"
        others["attention"] = vector_of(states_of(plain, prompt.ids, attention), prompt.pooled, system.pooling)
    if sum(prompt.pooled) > 1:
        others |= {
            pooling: vector_of(states, prompt.pooled, pooling)
            for pooling in ("mean", "last", "first", "weighted-mean")
            if pooling != system.pooling
        }
    if not all(prompt.pooled):
        others["span"] = vector_of(states, everything, "mean")
    for name, other in others.items():
        assert np.abs(vector - other).max() > 100 * TOLERANCE, name


def _serve_adapters(row: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The row's published adapters, in order, are these folders."""
    served = dict(zip(echoembed.recipes[row].adapters, folders, strict=True))

    def resolve_adapter(name: str, **_: object) -> Source:
        digits = json.dumps(sorted(served)).encode().hex()
        return Source(name=name, folder=served[name], revision=digits[:40], origin="hub")

    for module in ("echoembed.sources.resolve", "echoembed.model.load"):
        monkeypatch.setattr(f"{module}.resolve_adapter", resolve_adapter, raising=False)
