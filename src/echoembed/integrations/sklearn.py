"""scikit-learn: ``make_pipeline(EchoVectorizer("org/model"), LogisticRegression())`` can be cloned, pickled and tuned.

Texts may be any sequence, such as a pandas Series. By default, the query template reads them, as it should for all
texts of a symmetric task such as classification.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from echoembed import errors
from echoembed.integrations.several import texts_of
from echoembed.recipe import Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EchoVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A step of a pipeline that embeds texts.

    Args:
        model: A name or a folder, as for ``echoembed.load``; None for the default model.
        recipe: The name of a recipe in ``echoembed.recipes``; None for the one saved with the model, or ``echo``.
        kind: The template that reads the texts.
    """

    def __init__(
        self, model: str | None = None, recipe: str | None = None, kind: Literal["query", "document"] = "query"
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.kind = kind

    def fit(self, X: Iterable[str], y: Any = None) -> Self:
        """Load the model; nothing is learned.

        Raises:
            ModelError: If there is no such kind, or as from ``echoembed.load``.
            RecipeError: If there is no such recipe.
        """
        import echoembed

        if self.kind not in get_args(Kind):
            raise errors.ModelError.bad_value("kind", self.kind, ", ".join(get_args(Kind)))
        self.model_ = echoembed.load(self.model, recipe=self.recipe)
        self.n_features_out_ = int(self.model_.get_embedding_dimension() or 0)
        return self

    @property
    def _n_features_out(self) -> int:
        """What ``get_feature_names_out`` and ``set_output`` count the columns by."""
        return self.n_features_out_

    def transform(self, X: Iterable[str]) -> NDArray[np.float32]:
        """Embed texts: float32 ``(N, D)``, in order.

        Raises:
            TextError: If a text cannot be embedded, or these are one text or a table.
            NotFittedError: If ``fit`` has not loaded the model.
        """
        check_is_fitted(self)
        return self.model_.encode(texts_of(X), task=self.kind, show_progress_bar=False)
