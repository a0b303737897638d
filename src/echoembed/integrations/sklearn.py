"""scikit-learn: ``make_pipeline(EchoVectorizer("org/model"), LogisticRegression())`` clones, pickles and tunes.

Texts may come as any sequence, a pandas Series among them. Both sides of a symmetric task, such as classification, are
read with the query template.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Self

from sklearn.base import BaseEstimator, TransformerMixin

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EchoVectorizer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Texts to vectors as a step of a pipeline.

    Args:
        model: As ``echoembed.load`` takes it: a name or a folder; None for the default.
        recipe: A row of ``echoembed.recipes``; None for the one that was saved, or ``echo``.
        kind: Which template reads the texts.
    """

    def __init__(
        self, model: str | None = None, recipe: str | None = None, kind: Literal["query", "document"] = "query"
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.kind = kind

    def fit(self, X: Iterable[str], y: Any = None) -> Self:
        """Load the model; nothing is learned."""
        import echoembed

        self.model_ = echoembed.load(self.model, recipe=self.recipe)
        self.n_features_out_ = int(self.model_.get_embedding_dimension() or 0)
        return self

    def transform(self, X: Iterable[str]) -> NDArray[np.float32]:
        """Vectors of texts, float32 of shape (N, D), in order.

        Raises:
            TextError: If one cannot be embedded.
        """
        return self.model_.encode(list(X), task=self.kind, show_progress_bar=False)
