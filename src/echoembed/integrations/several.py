"""Several texts as tools pass them to an adapter: a list, a Series, a generator.

``list`` makes texts of other things too, which tools pass by mistake: the characters of one text, the names of a
table's columns, the keys of a dictionary. Each would get a vector, and nobody would know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from echoembed import errors


def texts_of(texts: Iterable[str]) -> list[str]:
    """Return several texts as a list; the model's reader checks each of them.

    Args:
        texts: Any iterable of texts that is no text itself, such as a list or a pandas Series.

    Raises:
        TextError: If these are one text, a table or a mapping.
    """
    # The tables of pandas, polars and pyarrow all have ``columns``, and none of these libraries needs to be imported to
    # know one. Rows of other tables, and bytes in a list, are refused by the reader, text by text.
    falls_apart = isinstance(texts, (str, bytes, Mapping)) or hasattr(texts, "columns")
    if falls_apart or not isinstance(texts, Iterable):
        raise errors.TextError.bad_value(
            "texts", texts, "a list of str: put one text into a list, and take one column of a table"
        )
    return list(texts)
