"""How well classes can be told by features that were learned without them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from metriczoo.metrics import knn_classify

__all__ = ["classifier_accuracies", "knn_accuracy", "linear_accuracy", "svm_accuracy"]

# Both chosen on glyphs, on training images held out, from powers of 10. Features are of unit length.
_LOGISTIC_C, _SVM_C = 100.0, 10.0
_MOST = 50_000  # images that a linear classifier is fitted to: of more, as many drawn at random

Labels = NDArray[np.int64]


def knn_accuracy(
    features: Tensor, labels: Labels | Tensor, queries: Tensor, answers: Labels, *, k: int = 200, temperature: float = 0.07
) -> float:
    """Accuracy of the weighted vote of the k nearest neighbours by cosine. Features with a label below 0 have no vote."""
    return _share(knn_classify(queries, features, labels, k=k, temperature=temperature).cpu().numpy(), answers)


def linear_accuracy(features: Tensor, labels: Labels, queries: Tensor, answers: Labels) -> float:
    """Accuracy of logistic regression on features of unit length."""
    from sklearn.linear_model import LogisticRegression

    return _fitted(LogisticRegression(C=_LOGISTIC_C, max_iter=300), features, labels, queries, answers)


def svm_accuracy(features: Tensor, labels: Labels, queries: Tensor, answers: Labels) -> float:
    """Accuracy of linear support vector machines on features of unit length, of each class against all others."""
    from sklearn.svm import LinearSVC

    # The dual problem is the quicker one where images are few for their dimension; a rough solution classifies as well as an exact one.
    dual = len(features) < 10 * features.shape[1]
    return _fitted(LinearSVC(C=_SVM_C, dual=dual, tol=1e-2, max_iter=300, random_state=0), features, labels, queries, answers)


def classifier_accuracies(
    features: Tensor, labels: Labels, queries: Tensor, answers: Labels, *, k: int, temperature: float
) -> dict[str, float]:
    """Of all three, by name."""
    found: dict[str, Callable[..., float]] = {"linear": linear_accuracy, "svm": svm_accuracy}
    return {
        "knn": knn_accuracy(features, labels, queries, answers, k=k, temperature=temperature),
        **{name: accuracy(features, labels, queries, answers) for name, accuracy in found.items()},
    }


def _fitted(model: Any, features: Tensor, labels: Labels, queries: Tensor, answers: Labels) -> float:
    if len(labels) > _MOST:
        rows = np.random.default_rng(0).choice(len(labels), _MOST, replace=False)
        features, labels = features[torch.as_tensor(rows)], labels[rows]
    if len(np.unique(labels)) == 1:  # nothing to fit: there is one answer
        return _share(np.full(len(answers), labels[0]), answers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an unfinished fit is good enough, and few images of a class are no mistake
        model.fit(normalize(features).numpy().astype(np.float64), labels)
    return _share(model.predict(normalize(queries).numpy().astype(np.float64)), answers)


def _share(found: NDArray[Any], answers: Labels) -> float:
    return float(np.mean(found == answers))
