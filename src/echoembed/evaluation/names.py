"""The names of models and systems on pages: short, without the paths of this machine, and each for one system alone.

Scores are grouped by these names. Two systems of one name would be averaged into one row without a word, so that
systems with equal names are told apart by the ends of their paths: ``tiny (a/model)`` and ``tiny (b/model)``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from echoembed.sources.packaged import BUNDLED, PACKAGED


def display_name(model: str) -> str:
    """Return a model's name for pages; of a path on this machine, only the last part."""
    name = (
        model.rstrip("/").rpartition("/")[2] if model.startswith(("/", ".", "~")) or model.endswith(".gguf") else model
    )
    return name.removesuffix(".gguf")


def told_apart(names: Sequence[str], places: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """Return the names, no two alike: a name of several systems is followed by the end of each one's place.

    Args:
        names: The names. A system that is given twice, by one place, has one name.
        places: The folder, file or name on the hub of each.
        taken: Names that others have.
    """
    parts = [_parts(place) for place in places]
    shown = []
    for name, own in zip(names, parts, strict=True):
        others = [other for other, same in zip(parts, names, strict=True) if same == name and other != own]
        shown.append(f"{name} ({_end(own, others, name)})" if others or name in taken else name)
    return shown


def model_name(name: str, place: str | None, places: Sequence[str | None]) -> str:
    """Name one of several models, of which the others need not be loaded.

    Args:
        name: The model's own name, which a saved model has of the model that it was made of.
        place: The folder, file or name by which it was given; None for the default model.
        places: Those of all models.
    """
    shown = display_name(name)
    others = [other for other in places if other is not None and place is not None and _parts(other) != _parts(place)]
    if place is None or not others or (shown == display_name(place) not in map(display_name, others)):
        return shown
    return f"{shown} ({_end(_parts(place), [_parts(other) for other in others], shown)})"


def _parts(place: str) -> tuple[str, ...]:
    """Split a path on this machine, in full, or a name on the hub."""
    path = Path(place).expanduser()
    reserved = place.lower() in (BUNDLED, *PACKAGED)  # names a model of a package even beside a folder of that name
    return path.resolve().parts if path.exists() and not reserved else tuple(place.split("/"))


def _end(own: Sequence[str], others: Sequence[Sequence[str]], name: str) -> str:
    """Return the fewest last parts of a place that no other place ends with, and that say more than the name."""
    for count in range(1, len(own)):
        end = own[-count:]
        if "/".join(end) != name and all(list(other[-count:]) != list(end) for other in others):
            return "/".join(end)
    return "/".join(own)
