"""The paper's figures and tables, and a few experiments beyond it: one file each.

Each file says what is tested and where in "Repetition Improves Language Model Embeddings" (ICLR 2025) it stands.
``reproduce.reproduce`` runs them: tidy Parquet, pictures, and the paper's figures beside ours.
"""

from collections.abc import Sequence

from echoembed import errors

_TABLES = (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 17, 18)
NAMES = (
    *("all", "interval", "layers", "copies", "cost"),
    *(f"figure{number}" for number in range(2, 14)),
    *(f"table{number}" for number in _TABLES),
)
"""Every experiment and every other name of one: told here, where a wrong name costs no import."""


def check_names(names: Sequence[str]) -> None:
    """Refuse names that are no experiment's.

    Raises:
        ExperimentError: If there is none of a name.
    """
    for name in names:
        if name not in NAMES:
            raise errors.ExperimentError.unknown_name("experiment", name, NAMES)
