"""Input checks of the estimators, with every scikit-learn from 1.5 on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets

from metriczoo._checks import check_choice, check_count, describe

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn < 1.6

    def validate_data(estimator: Any, X: Any, y: Any = "no_validation", **options: Any) -> Any:
        """What scikit-learn 1.6 made a function."""
        return estimator._validate_data(X, y, **options)


__all__ = ["INITS", "as_classes", "as_data", "as_init", "as_labelled", "as_pairs", "as_rank"]

Array = npt.NDArray[np.float64]

INITS = ("auto", "pca", "lda", "identity", "random")


def as_data(estimator: Any, X: Any, *, reset: bool, min_samples: int = 1) -> Array:
    """`X` as a finite float64 array `[n, d]`. With `reset` its width and names become those of `estimator`, else they must be the same."""
    data: Array = validate_data(estimator, X, reset=reset, dtype=np.float64, ensure_min_samples=min_samples)
    return data


def as_labelled(estimator: Any, X: Any, y: Any, *, reset: bool = True, min_samples: int = 2) -> tuple[Array, npt.NDArray[Any]]:
    """`X` as `as_data` makes it, and `y`, class labels of any type, as an array `[n]`."""
    X, y = validate_data(estimator, X, y, reset=reset, dtype=np.float64, ensure_min_samples=min_samples)
    check_classification_targets(y)
    return X, y


def as_classes(y: npt.NDArray[Any], *, at_least: int = 2) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The classes of labels, sorted, and of each label the position of its class."""
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < at_least:
        raise ValueError(f"Expected `y` to hold at least {at_least} classes, but got {len(classes)} class: {classes.tolist()}.")
    return classes, codes.astype(np.int64)


def as_pairs(pairs: Any, num_features: int | None = None) -> Array:
    """`pairs` as a finite float64 array `[m, 2, d]`."""
    array: Array = check_array(pairs, dtype=np.float64, allow_nd=True, ensure_2d=False, ensure_min_samples=0, input_name="pairs")
    if array.ndim != 3 or array.shape[1] != 2:
        raise ValueError(f"Expected `pairs` to be of shape [m, 2, d], but got {describe(array)}.")
    if num_features is not None and array.shape[2] != num_features:
        raise ValueError(f"Expected `pairs` to have {num_features} features, as in `fit`, but got {describe(array)}.")
    return array


def as_rank(n_components: Any, num_features: int) -> int:
    """Rank of a map from `num_features` features; all of them for None."""
    if n_components is None:
        return num_features
    if check_count("n_components", n_components) > num_features:
        raise ValueError(f"Expected `n_components` to be at most {num_features}, the number of features, but got {n_components}.")
    return int(n_components)


def as_init(init: Any, n_components: Any, num_features: int) -> str | Array:
    """`init`: one of `INITS`, or a matrix `[r, d]` with as many columns as there are features, and `n_components` rows if that is given."""
    if isinstance(init, str):
        return check_choice("init", init, INITS)
    matrix: Array = check_array(init, dtype=np.float64, ensure_2d=False, allow_nd=True, ensure_min_samples=0, input_name="init")
    rank = as_rank(n_components, num_features) if n_components is not None else matrix.size // num_features
    if matrix.shape != (rank, num_features) or not 0 < rank <= num_features:
        rows = f"{rank}" if n_components is not None else f"r <= {num_features}"
        raise ValueError(f"Expected `init` to be of shape [{rows}, {num_features}], one column per feature, but got {describe(matrix)}.")
    if not matrix.any():
        raise ValueError("Expected `init` to have an entry other than 0, since the gradient is 0 at the zero map, but got zeros only.")
    copy: Array = matrix.copy()
    return copy
