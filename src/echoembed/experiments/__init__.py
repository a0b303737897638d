"""The paper's figures and tables, and a few experiments beyond it: one file each.

Each file names its question and its place in "Repetition Improves Language Model Embeddings" (ICLR 2025).
``reproduce.reproduce`` runs the experiments, and writes tidy Parquet, pictures, and tables with the paper's numbers
beside ours.
"""

from collections.abc import Sequence

from echoembed import errors

_TABLES = (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 17, 18)
NAMES = (
    *("all", "interval", "layers", "copies", "cost"),
    *(f"figure{number}" for number in range(2, 14)),
    *(f"table{number}" for number in _TABLES),
)
"""The names of all experiments, with their aliases. They are listed here so that a wrong name costs no import."""


def check_names(names: Sequence[str]) -> None:
    """Refuse unknown names.

    Raises:
        ExperimentError: If there is no experiment of a name.
    """
    for name in names:
        if name not in NAMES:
            raise errors.ExperimentError.unknown_name("experiment", name, NAMES)
