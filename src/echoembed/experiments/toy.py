"""Toy triples: a query, a sentence that means the same, and one that does not (section 3.1, appendix C).

A query is [A, B]. The two sentences differ either in A or in B:

    early-discriminatory                       positive [A+, B+]   negative [A-, B ]
    late-discriminatory                        positive [A+, B+]   negative [A , B-]
    late-discriminatory with shared prefix     positive [A , B+]   negative [A , B-]

A+ and B+ are paraphrases, A- and B- opposites. The grammar joins a scene (who does what when), which has paraphrases
only, to two attitudes, which also have opposites. Early and late structures differ only in the order of the parts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from echoembed.checks import Check
from echoembed.evaluation import rows
from echoembed.prompts.text import clean_text

STRUCTURES = ("early_discriminatory", "late_discriminatory", "late_discriminatory_shared_prefix")

# who: text, slightly reworded
_WHO = [
    ("the gardener", "our gardener"),
    ("my neighbour", "the man next door"),
    ("the old teacher", "the elderly teacher"),
    ("our cook", "the cook"),
    ("the young painter", "the youthful painter"),
    ("the baker", "our baker"),
    ("her uncle", "the uncle of hers"),
    ("the night guard", "the guard"),
    ("the pilot", "that pilot"),
    ("the librarian", "our librarian"),
    ("the fisherman", "the old fisherman"),
    ("a student", "one student"),
    ("the doctor", "the local doctor"),
    ("his grandmother", "his grandma"),
]
# does: text, slightly reworded
_DOES = [
    ("waters the roses", "gives water to the roses"),
    ("walks to the market", "goes to the market on foot"),
    ("repairs bicycles", "fixes broken bicycles"),
    ("sings in the choir", "sings with the choir"),
    ("reads the newspaper", "looks through the newspaper"),
    ("plays chess", "plays some chess"),
    ("swims in the lake", "takes a swim in the lake"),
    ("cleans the kitchen", "tidies the kitchen"),
    ("writes long letters", "writes lengthy letters"),
    ("feeds the horses", "gives the horses food"),
    ("practises the violin", "plays the violin"),
    ("climbs the hill", "walks up the hill"),
    ("bakes apple pies", "makes pies with apples"),
    ("paints the fence", "puts paint on the fence"),
]
# when: text, slightly reworded
_WHEN = [
    ("every morning", "each morning"),
    ("on Sundays", "every Sunday"),
    ("after lunch", "once lunch is over"),
    ("in winter", "during the winter"),
    ("before sunrise", "before the sun rises"),
    ("in the evening", "every evening"),
    ("twice a month", "two times a month"),
    ("in July", "during July"),
]
# how it goes: text, slightly reworded, opposite
_FEELS = [
    ("feeling calm and happy the whole time", "calm and happy all the time", "full of anger and bitter complaints"),
    ("loving every single minute of it", "enjoying each minute of it", "bored to death and hating the work"),
    ("smiling at everyone who passes by", "smiling at all who pass", "shouting rude insults into the street"),
    ("full of energy and fresh ideas", "with much energy and new ideas", "tired out and without any plan"),
    ("proud of the good work", "proud that the work is good", "ashamed of another poor result"),
    ("taking all the time it needs", "taking as much time as needed", "rushing to be done in a hurry"),
    ("in the company of many friends", "joined by many good friends", "alone and terribly lonely"),
    ("whistling loud and cheerful songs", "whistling cheerful songs loudly", "keeping a grim and heavy silence"),
    ("paying great care to each detail", "with great care for the details", "careless and making big mistakes"),
    ("earning a large sum of money", "making a lot of money", "falling ever deeper into debt"),
    ("wearing warm and dry clothes", "dressed in warm, dry clothes", "soaked by rain and freezing badly"),
    ("praised by the whole town", "praised by everyone in town", "mocked by angry strangers"),
]
# what is hoped: text, slightly reworded, opposite
_HOPES = [
    ("hoping to do it far more often", "hoping to do so more often", "longing to give up for good"),
    ("never thinking of doing anything else", "not thinking of anything else", "dreaming of a different life"),
    ("eager to teach it to the children", "keen to teach the children how", "unwilling to let others try"),
    ("sure that it is good for health", "certain it is healthy and good", "afraid of sickness and injury"),
    ("grateful for the help of others", "thankful for the help of others", "furious at lazy relatives"),
    ("ready to start again at once", "ready to begin again right away", "desperate for a very long rest"),
    ("certain that the weather stays fine", "sure that the weather stays good", "worried about the coming storm"),
    ("planning a big party for the autumn", "planning a large autumn party", "refusing to celebrate anything"),
    ("glad to be far from the city", "happy to be far from the city", "missing the noise of busy streets"),
    ("determined to win a prize one day", "determined to win some day", "expecting nothing but failure"),
    ("telling funny stories to the guests", "telling the guests funny stories", "ignoring whoever comes to visit"),
    ("trusting the advice of the family", "trusting what the family advises", "suspicious of everybody"),
]


@dataclass(frozen=True)
class Triple:
    """One triple; ``firsts`` are the first parts of query, positive and negative, if known."""

    structure: str
    query: str
    positive: str
    negative: str
    firsts: tuple[str, str, str] | None = None


def make_triples(count: int, seed: int) -> list[Triple]:
    """Make ``count`` different triples of each structure, the same for the same seed."""
    triples: list[Triple] = []
    for structure in STRUCTURES:
        stream = _triples(structure, random.Random(f"{structure} {seed}"))  # noqa: S311
        queries: dict[str, Triple] = {}
        while len(queries) < count:
            triple = next(stream)
            queries.setdefault(triple.query, triple)
        triples += queries.values()
    return triples


def _triples(structure: str, draw: random.Random) -> Iterator[Triple]:
    while True:
        (who, who2), (does, does2), (when, when2) = draw.choice(_WHO), draw.choice(_DOES), draw.choice(_WHEN)
        feels, hopes = draw.choice(_FEELS), draw.choice(_HOPES)
        scene, scene2 = f"{who} {does} {when}", f"{when2} {who2} {does2}"
        text, same, opposite = (f"{feel} and {hope}" for feel, hope in zip(feels, hopes, strict=True))
        if structure == "early_discriminatory":
            parts = [(text, scene), (same, scene2), (opposite, scene)]
        elif structure == "late_discriminatory":
            parts = [(scene, text), (scene2, same), (scene, opposite)]
        else:
            parts = [(scene, text), (scene, same), (scene, opposite)]
        query, positive, negative = (f"{_capital(first)}, {second}." for first, second in parts)
        firsts = (_capital(parts[0][0]), _capital(parts[1][0]), _capital(parts[2][0]))
        yield Triple(structure, query, positive, negative, firsts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def read_triples(path: str | Path) -> list[Triple]:
    """Read triples from JSON lines with ``structure``, ``query``, ``positive`` and ``negative``.

    In the structure with equal first parts, these are the words that the three sentences share.

    Raises:
        FileError: If the file cannot be read.
        DataError: If a line lacks a field, or names no known structure.
    """
    structure = Check(lambda value: value in STRUCTURES, f"one of {', '.join(STRUCTURES)}")
    text = Check(lambda value: isinstance(value, str) and bool(clean_text(value).strip()), "a string that is not blank")
    fields = {"structure": structure, "query": text, "positive": text, "negative": text}
    triples = []
    for row in rows.read_rows(path, fields):
        texts = (row["query"], row["positive"], row["negative"])
        part = shared_words(texts) if row["structure"] == STRUCTURES[2] else ""
        triples.append(Triple(row["structure"], *texts, firsts=(part, part, part) if part else None))
    return triples


def shared_words(texts: tuple[str, ...]) -> str:
    """Return the longest run of whole words with which all texts begin, without a final comma."""
    words = [text.split(" ") for text in texts]
    count = 0
    while all(len(row) > count for row in words) and len({row[count].rstrip(",") for row in words}) == 1:
        count += 1
        if any(row[count - 1].endswith(",") for row in words):
            break
    return " ".join(words[0][:count]).rstrip(",")
