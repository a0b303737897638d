"""Checking texts, once, where they enter."""

from __future__ import annotations

import re

from echoembed import errors

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
