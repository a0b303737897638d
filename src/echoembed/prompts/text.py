"""Checking texts, once, where they enter, and preparing them for a prompt."""

from __future__ import annotations

import re
from typing import Literal

from echoembed import errors

Preparation = Literal["none", "prompteol"]

# Control characters except tab and line breaks; DEL; the C1 controls except NEL; half surrogate pairs.
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff]")


def check_text(text: object, where: str = "The text") -> str:
    """Return the text if it can be embedded.

    Args:
        text: The object to check.
        where: What the error calls it, such as ``line 7 of notes.txt``.

    Raises:
        TextError: If it is no ``str``, is blank, or holds NUL, another control character or half a surrogate pair.
            Such characters appear only where bytes were decoded wrongly.
    """
    if not isinstance(text, str):
        raise errors.text_not_str(text, where)
    if not text.strip():
        raise errors.text_blank(text, where)
    if match := _NO_TEXT.search(text):
        raise errors.text_with_character(text, match.start(), where)
    return text


def clean_text(text: str) -> str:
    """Remove the characters that ``check_text`` refuses; the result may be blank."""
    return _NO_TEXT.sub("", text)


def prepare(text: str, preparation: Preparation) -> str:
    """Prepare a text as its recipe says, before it is tokenised.

    ``prompteol`` (Jiang et al. 2023, "Scaling sentence embeddings with large language models") makes single quotes of
    double quotes, as the prompt puts the text into double quotes, and removes a final full stop or question mark. The
    template ends the text with a full stop instead, which shares a token with the quote after it and must be there even
    if the text is cut.
    """
    if preparation == "none":
        return text
    unended = text[:-1] if text[-1:] in (".", "?") and text[:-1].strip() else text
    return unended.replace('"', "'")
