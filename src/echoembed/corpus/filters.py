"""The filter of a search: one condition in SQL on the columns of the corpus, and LanceDB's reason for refusing it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from echoembed import errors

REASON = 200
"""The most characters of a reason: LanceDB may add the whole plan of a query."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_FORBIDDEN = {";": "a semicolon", "--": "a comment", "/*": "a comment"}
# What LanceDB puts before a reason (which of its parts met the fault) and behind it (places in its code, our columns).
_BEFORE = re.compile(
    r"(?:lance error|Query Execution error|Execution error|Error applying filter expression to batch|Arrow error"
    r"|Compute error|Schema error|Invalid user input|Invalid input|Not supported|This feature is not implemented"
    r"|Error during planning|Error resolving filter expression .*?|invalid SQL predicate|Error optimizing sql filter)"
    r"[:,] "
)
_BEHIND = re.compile(r" \(sql parser|, /\S+\.rs:|\. Valid fields are |\. You can use double quotes ")


def condition(where: object, columns: Sequence[str]) -> str:
    """Return a filter as LanceDB is to read it.

    In brackets, so that nothing can follow the condition: LanceDB would ignore ``LIMIT 5`` without a word.

    Raises:
        CorpusError: If it is no string, or is more than one condition.
    """
    if not isinstance(where, str):
        raise errors.CorpusError.bad_value("where", where, "a condition in SQL, as a string")
    bare = _QUOTED.sub("", where)
    for sign, what in _FORBIDDEN.items():
        if sign in bare:
            raise errors.corpus_filter(where, f"it holds {what}, and one condition is all it may be", columns)
    if not _paired(bare):
        raise errors.corpus_filter(where, "its brackets are not in pairs", columns)
    return f"({where})"


def _paired(bare: str) -> bool:
    """Whether every bracket has its other one: one too many would end the condition in our own."""
    depths = list(accumulate({"(": 1, ")": -1}.get(character, 0) for character in bare))
    return not depths or (min(depths) >= 0 and depths[-1] == 0)


def reason(error: Exception, asked: str | None = None) -> str:
    """Return LanceDB's reason for refusing a filter, in one short line.

    Args:
        error: What LanceDB raised.
        asked: The condition that LanceDB was given.
    """
    line = (str(error).splitlines() or [type(error).__name__])[0]
    if asked is not None and f"WHERE {asked.splitlines()[0]}" in line:
        return "it is no condition that SQL can parse"
    while match := _BEFORE.match(line):
        line = line[match.end() :]
    line = _BEHIND.split(line)[0].removesuffix(":").rstrip(". ")
    return line if len(line) <= REASON else line[:REASON] + "…"
