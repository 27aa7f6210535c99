"""Large margin nearest neighbours."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from metriczoo._checks import check_choice, check_count, check_number
from metriczoo.linear._base import SupervisedLinearMetric
from metriczoo.linear._checks import as_classes, as_data, as_init, as_labelled, as_rank
from metriczoo.linear._initial import initial_map, without_mean
from metriczoo.linear._lmnn_energy import Labelled
from metriczoo.linear._lmnn_impostors import Classes
from metriczoo.linear._lmnn_minibatch import Batches, Stochastic
from metriczoo.linear._lmnn_objective import Objective, Targets
from metriczoo.linear._lmnn_solvers import Descent, by_map, by_metric, rescaled
from metriczoo.linear._progress import Progress

__all__ = ["LMNN"]

Array = npt.NDArray[np.float64]
_PLATEAU = 3  # epochs without a better value after which the learning rate is halved
_BLIND = 0.5  # share of the objective that one feature alone could take from it
_HALVINGS = 6  # of the learning rate, the last of which ends the descent


class LMNN(ClassifierMixin, SupervisedLinearMetric):  # type: ignore[misc]
    r"""Large margin nearest neighbours: a linear map that draws target neighbours close and keeps other classes away by a margin.

    .. math::

        \min_L \; (1 - \mu) \sum_{i, j \in T_i} d(i, j)^2
            + \mu \sum_{i, j \in T_i} \sum_{l:\, y_l \ne y_i} \phi\left(m + d(i, j)^2 - d(i, l)^2\right),
        \qquad d(i, j)^2 = \|L x_i - L x_j\|^2, \quad \phi(v) = \max(v, 0)

    :math:`T_i` holds the k nearest points of the class of i. All impostors count, at each step: they are searched in blocks of products,
    and not again as long as the points have moved too little for another one to have come in. So the objective is exact, and memory linear
    in the number of points. Before the first step the start is multiplied by the scale that is best for it.

    Args:
        n_neighbors: k >= 1, target neighbours of each point, and neighbours that vote in `predict`.
        n_components: r, rows of L, at most the number of features (after `pca`); None for all of them.
        init: L to start from: "identity", "pca", "lda", "random", an array `[r, d]` (d after `pca`), or "auto", which is the identity
            if `n_components` is None, else "pca".
        mu: weight of the push against the pull, in [0, 1].
        margin: m > 0; it fixes the scale of the metric.
        penalty: :math:`\phi`: "hinge" as in the paper, or "squared", its square.
        solver: "lbfgs" descends in L; "psd" by projected gradients in :math:`M = L^T L`, in which the problem is convex, of full rank only;
            "minibatch" by Adam in PyTorch on batches of anchors, for many points, and for accelerators.
        max_iter: steps at most in each pass; epochs for "minibatch".
        tol: relative decrease of the objective per step (epoch) that ends a pass.
        n_passes: how often to fix the target neighbours, first by the distances of the input, then by those learned so far. The objective
            cannot rise by that.
        pca: components to which the input is reduced first: a number, a share of the variance in (0, 1), or None for no reduction.
            `components_` takes the input as it is.
        local: "class" for a map of its own for each class, which measures distances to its points, or None for one map.
        classify: "knn", or "energy": the class with which a point would raise the objective least.
        small_classes: "raise" on a class of fewer than k + 1 points, or "fewer": its points have fewer targets, a single point none.
        batch_size: anchors per step of "minibatch" and `partial_fit`.
        learning_rate: of Adam, relative to the entries of the start.
        device: of PyTorch, for "minibatch" and `partial_fit`; None for the CPU.
        random_state: seed or generator of a random start, PCA, the sample for the first scale, and batches.
        verbose: whether to show a progress bar.

    Attributes:
        components_: L, `[r, d]`; `[C, r, d]` with `local`.
        classes_: class labels, sorted.
        n_iter_: steps (epochs) over all passes.
        objectives_: the objective at the start, after scaling, and after each step; it never rises. For "minibatch" estimates from the
            batches of each epoch, which may. `partial_fit` adds the mean per anchor of each call.
        n_impostors_: pairs (anchor, impostor) at the end; not after "minibatch".

    Raises:
        ValueError: for one class, a class that is too small, an unknown option, or a start of the wrong shape, or of zeros.

    Warns:
        ConvergenceWarning: if `max_iter` is too few, or the features differ so much in scale that those of a small one are lost.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> lmnn = LMNN(random_state=0).fit(X[::2], y[::2])
        >>> round(lmnn.score(X[1::2], y[1::2]), 4)
        0.9733

    Relations:
        On a linear encoder `metriczoo.losses.LMNNLoss` with reduction "sum" is the same objective, its targets being chosen anew at each
        step. `NCA` has soft neighbours, `MMC` looks at all pairs, not at near ones.

    References:
        Weinberger, Blitzer, Saul. Distance Metric Learning for Large Margin Nearest Neighbor Classification. NIPS 2005.
        Weinberger, Saul. Distance Metric Learning for Large Margin Nearest Neighbor Classification. JMLR 10, 2009: equations 11 to 13,
        section 3.5 on passes, 5.1 on classes with a metric each, 6.1 on energies.
    """

    objectives_: list[float]
    n_iter_: int
    n_impostors_: int
    _targets: Targets | None
    _stochastic: Stochastic | None

    def __init__(
        self,
        n_neighbors: int = 3,
        *,
        n_components: int | None = None,
        init: Any = "auto",
        mu: float = 0.5,
        margin: float = 1.0,
        penalty: str = "hinge",
        solver: str = "lbfgs",
        max_iter: int = 200,
        tol: float = 1e-5,
        n_passes: int = 1,
        pca: Any = None,
        local: str | None = None,
        classify: str = "knn",
        small_classes: str = "raise",
        batch_size: int = 256,
        learning_rate: float = 0.05,
        device: Any = None,
        random_state: Any = None,
        verbose: bool | int = False,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.n_components = n_components
        self.init = init
        self.mu = mu
        self.margin = margin
        self.penalty = penalty
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.n_passes = n_passes
        self.pca = pca
        self.local = local
        self.classify = classify
        self.small_classes = small_classes
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> LMNN:
        """Learn the map.

        Args:
            X: `[n, d]`, array or data frame.
            y: `[n]`, class labels of any type.

        Returns:
            The estimator.

        Raises:
            ValueError: as of the class.
        """
        self._check()
        X, y = as_labelled(self, X, y)
        self.classes_, codes = as_classes(y)
        random = check_random_state(self.random_state)
        order = np.argsort(codes, kind="stable")
        X, classes = X[order], Classes(codes[order])
        self._check_sizes(classes)
        self._reducer = self._find_reducer(X)
        self._points, self._codes = self._reduce(X), classes.codes
        self._maps = self._find_start(random)
        self.objectives_, self.n_iter_, self._stochastic, self._targets = [], 0, None, None
        self.__dict__.pop("n_impostors_", None)
        centred, converged = self._points - self._points.mean(0), True
        progress = Progress("LMNN", self.max_iter * self.n_passes, self.verbose)
        descend = self._descend_by_batches if self.solver == "minibatch" else self._descend
        for i in range(self.n_passes):
            targets = Targets(centred if i == 0 else self._mapped(centred), classes, self.n_neighbors)
            if targets == self._targets:
                break
            self._targets = targets
            converged = descend(centred, classes, targets, random, progress)
        progress.close()
        if converged and self._is_blind(centred, classes):
            warnings.warn(
                "LMNN has ended where it cannot see some features, which are of a much smaller scale than others: scale them first, "
                "as sklearn.preprocessing.StandardScaler does.",
                ConvergenceWarning,
                stacklevel=2,
            )
        elif not converged:
            warnings.warn(
                f"LMNN has not converged in max_iter={self.max_iter} steps: raise `max_iter` or `tol`.", ConvergenceWarning, stacklevel=2
            )
        self._publish()
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> LMNN:
        """One epoch of "minibatch" on some of the points, with targets and impostors from among these only.

        It goes on from what `fit` or earlier calls have learned. All points seen so far vote in `predict`, equal ones once, so the memory
        grows with them, not with the calls. A class may have fewer than k + 1 points in a call.

        Args:
            X: `[n, d]`.
            y: `[n]`, class labels.
            classes: all class labels that there will be, at the first call; None for those of `y`.

        Returns:
            The estimator.

        Raises:
            ValueError: as of the class, and for labels that are not in `classes`.
        """
        self._check()
        first = not hasattr(self, "components_")
        X, y = as_labelled(self, X, y, reset=first, min_samples=1)
        if first:
            self.classes_, _ = as_classes(np.asarray(y if classes is None else classes))
        codes = _codes(self.classes_, y)
        order = np.argsort(codes, kind="stable")
        X, part = X[order], Classes(codes[order], len(self.classes_))
        if first:
            self._reducer = self._find_reducer(X)
            self._points, self._codes = self._reduce(X), part.codes
            self._maps = self._find_start(check_random_state(self.random_state))
            self.objectives_, self.n_iter_, self._stochastic = [], 0, None
        points = self._reduce(X)
        centred = points - points.mean(0)
        targets = Targets(centred, part, self.n_neighbors)
        random = check_random_state(self.random_state)
        if self._stochastic is None:
            if first:
                self._maps = rescaled(self._objective(centred, part, targets), self._maps, random)
            self._stochastic = self._adam()
        value = self._epoch(self._stochastic, Batches(centred, part, targets, self.device), random)
        self.objectives_.append(value / len(X))
        self.n_iter_ += 1
        self._maps, self._targets = self._stochastic.array(), None
        self._remember(points, part.codes)
        self._publish()
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Classes of points, by `classify`.

        Args:
            X: `[m, d]`.

        Returns:
            `[m]`, class labels.

        Raises:
            NotFittedError: before `fit`.
            ValueError: if the features are not those of `fit`, or not finite.
        """
        check_is_fitted(self)
        check_choice("classify", self.classify, ["knn", "energy"])
        if self.classify == "energy":
            return np.asarray(self.classes_[self.energies(X).argmin(1)])
        points = self._reduce(as_data(self, X, reset=False))
        labelled, present = self._labelled()
        return np.asarray(self.classes_[present[labelled.vote(points, self.n_neighbors)]])

    def energies(self, X: Any) -> Array:
        r"""By how much a point would raise the objective as one more training point, for each class it may have.

        .. math::

            (1 - \mu) \sum_{j \in T_t} d(t, j)^2 + \mu \sum_{j \in T_t, \, l} \phi(m + d(t, j)^2 - d(t, l)^2)
                + \mu \sum_{i, \, j \in T_i} \phi(m + d(i, j)^2 - d(i, t)^2)

        Pull, impostors of the point t, and what it is an impostor to; l and i are of other classes than t is assumed to be.

        Args:
            X: `[m, d]`.

        Returns:
            `[m, C]`, classes in the order of `classes_`; infinite for a class of which `partial_fit` has seen no point.

        Raises:
            NotFittedError: before `fit`.
            ValueError: if the features are not those of `fit`, or not finite.
        """
        check_is_fitted(self)
        points = self._reduce(as_data(self, X, reset=False))
        labelled, present = self._labelled()
        targets = labelled.targets(self.n_neighbors) if self._targets is None else self._targets
        energies = np.full((len(points), len(self.classes_)), np.inf)
        energies[:, present] = labelled.energies(
            points, targets, k=self.n_neighbors, mu=self.mu, margin=self.margin, squared=self.penalty == "squared"
        )
        return energies

    def transform(self, X: Any) -> Any:
        r"""Map points to where the metric is Euclidean.

        Args:
            X: `[n, d]`, array or data frame.

        Returns:
            `[n, r]`, the rows :math:`L x`, not centred: an array of float64, or a data frame if `set_output` asks for one.

        Raises:
            NotFittedError: before `fit`.
            ValueError: with `local`, or if the features are not those of `fit`, or not finite.
        """
        self._check_one_map()
        return super().transform(X)

    def pair_distance(self, pairs: Any) -> Array:
        """Distances within pairs, by the learned metric.

        Args:
            pairs: `[m, 2, d]`.

        Returns:
            `[m]`, >= 0: `d`, not squared.

        Raises:
            NotFittedError: before `fit`.
            ValueError: with `local`, or if the shape or the number of features is another, or a value is not finite.
        """
        self._check_one_map()
        return super().pair_distance(pairs)

    def get_mahalanobis_matrix(self) -> Array:
        r"""The matrix :math:`M = L^T L` of the metric.

        Returns:
            `[d, d]`, symmetric and positive semidefinite; `[C, d, d]` with `local`.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        return np.asarray(np.swapaxes(self.components_, -1, -2) @ self.components_)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """Names of the columns that `transform` gives: `lmnn0`, `lmnn1` and so on.

        Args:
            input_features: ignored.

        Returns:
            `[r]`, texts.

        Raises:
            NotFittedError: before `fit`.
            ValueError: with `local`, for there is no such column.
        """
        self._check_one_map()
        return np.asarray(super().get_feature_names_out(input_features))

    def _check_one_map(self) -> None:
        if self.local is not None:
            raise ValueError(
                "Expected `local` to be None: where each class has a map, a point of unknown class has no image and no distance."
            )

    def _check(self) -> None:
        """Check the parameters that do not depend on the input."""
        check_count("n_neighbors", self.n_neighbors)
        check_number("mu", self.mu, low=0, high=1)
        check_number("margin", self.margin, low=0, open_low=True)
        check_choice("penalty", self.penalty, ["hinge", "squared"])
        check_choice("solver", self.solver, ["lbfgs", "psd", "minibatch"])
        check_choice("classify", self.classify, ["knn", "energy"])
        check_choice("small_classes", self.small_classes, ["raise", "fewer"])
        for name in ("max_iter", "n_passes", "batch_size"):
            check_count(name, getattr(self, name))
        check_number("tol", self.tol, low=0)
        check_number("learning_rate", self.learning_rate, low=0, open_low=True)
        if self.local is not None:
            check_choice("local", self.local, ["class"])
        if self.solver == "psd" and self.n_components is not None:
            raise ValueError("Expected `n_components` to be None with `solver='psd'`, which is convex in matrices of full rank only.")

    def _check_sizes(self, classes: Classes) -> None:
        small = np.flatnonzero(classes.sizes <= self.n_neighbors)
        if self.small_classes == "raise" and len(small):
            labels, sizes = self.classes_.tolist(), classes.sizes
            named = ", ".join(f"{labels[c]!r} has {sizes[c]}" for c in small[:5]) + (" ..." if len(small) > 5 else "")
            raise ValueError(
                f"Expected at least n_neighbors + 1 = {self.n_neighbors + 1} points of each class, but class {named}, "
                f"with n_samples = {len(classes.codes)}, n_features = {self.n_features_in_}. "
                "Lower `n_neighbors`, or let such classes have fewer targets by `small_classes='fewer'`."
            )
        if classes.sizes.max() < 2:
            raise ValueError("Expected a class of at least 2 points: where each point is a class of its own, none has a target neighbour.")

    def _find_reducer(self, X: Array) -> Array | None:
        """The matrix of the reduction, `[q, d]`."""
        if self.pca is None:
            return None
        if isinstance(self.pca, float):
            check_number("pca", self.pca, low=0, high=1, open_low=True, open_high=True)
        elif check_count("pca", self.pca) > min(X.shape):
            raise ValueError(f"Expected `pca` to be at most {min(X.shape)}, the lesser of points and features, but got {self.pca}.")
        solver = "covariance_eigh" if len(X) > X.shape[1] else "full"
        X = without_mean(X)
        if not X.any():  # no direction is better than another
            return np.eye(1 if isinstance(self.pca, float) else self.pca, X.shape[1])
        return np.asarray(PCA(self.pca, svd_solver=solver).fit(X).components_)

    def _reduce(self, X: Array) -> Array:
        return X if self._reducer is None else X @ self._reducer.T

    def _find_start(self, random: np.random.RandomState) -> Array:
        """The maps to start from, `[G, r, q]`."""
        width = self._points.shape[1]
        init = as_init(self.init, self.n_components, width)
        if isinstance(init, str) and init == "auto":
            init = "identity" if self.n_components is None else "pca"
        rank = as_rank(self.n_components, width) if isinstance(init, str) else len(init)
        start = initial_map(init, self._points, self._codes, rank, random)
        return np.repeat(start[None], 1 if self.local is None else len(self.classes_), axis=0)

    def _objective(self, X: Array, classes: Classes, targets: Targets) -> Objective:
        squared, local = self.penalty == "squared", self.local is not None
        return Objective(X, classes, targets, mu=self.mu, margin=self.margin, squared=squared, local=local)

    def _descend(self, X: Array, classes: Classes, targets: Targets, random: np.random.RandomState, progress: Progress) -> bool:
        """One pass, exactly; whether it has converged."""
        objective = self._objective(X, classes, targets)
        first = objective(self._maps)[0]
        descent = Descent(self._maps, [first], lambda value: progress.step(value, f"  {objective.num_impostors} impostors"))
        if not self.objectives_:
            scaled = rescaled(objective, self._maps, random)
            value = objective(scaled)[0]
            if value < first:
                descent.maps, descent.objectives = scaled, [first, value]
        (by_metric if self.solver == "psd" else by_map)(objective, descent, self.max_iter, self.tol)
        self._maps = descent.maps
        self.objectives_ += descent.objectives
        self.n_iter_ += descent.steps
        objective(self._maps)
        self.n_impostors_ = objective.num_impostors
        return descent.converged

    def _is_blind(self, X: Array, classes: Classes) -> bool:
        """Whether some weight for a feature of unit variance would lower the objective by much, though the descent has ended.

        At an optimum none can, and nearly none by more than 1 % of the objective per margin after a descent. But in L the gradient along a
        direction is as small as the map of it, so it vanishes where the unit of one feature is far below that of the others.
        """
        variances = X.var(axis=0)
        if self._maps.shape[1] < X.shape[1] or self._targets is None:  # a low rank leaves directions out
            return False
        value, slopes = self._objective(X, classes, self._targets)(self._maps, by_metric=True)
        seen = variances > 0
        gains = -np.diagonal(slopes, axis1=1, axis2=2)[:, seen] / variances[seen] * self.margin
        return bool((gains > _BLIND * value).any())

    def _descend_by_batches(self, X: Array, classes: Classes, targets: Targets, random: np.random.RandomState, progress: Progress) -> bool:
        """One pass by batches; whether it has converged."""
        if not self.objectives_:
            self._maps = rescaled(self._objective(X, classes, targets), self._maps, random)
        stochastic, batches = self._adam(), Batches(X, classes, targets, self.device)
        best, since, halvings = np.inf, 0, 0
        for _ in range(self.max_iter):
            value = self._epoch(stochastic, batches, random)
            self.objectives_.append(value)
            self.n_iter_ += 1
            progress.step(value)
            since = 0 if value < best * (1 - self.tol) else since + 1
            best = min(best, value)
            if since >= _PLATEAU:
                since, halvings = 0, halvings + 1
                stochastic.slow_down()
            if halvings >= _HALVINGS or not value:
                break
        self._maps = stochastic.array()
        return halvings >= _HALVINGS or not best

    def _adam(self) -> Stochastic:
        return Stochastic(
            self._maps,
            mu=self.mu,
            margin=self.margin,
            squared=self.penalty == "squared",
            learning_rate=self.learning_rate,
            device=self.device,
        )

    def _epoch(self, stochastic: Stochastic, batches: Batches, random: np.random.RandomState) -> float:
        order = random.permutation(len(batches.X))
        return sum(stochastic.step(batches, order[i : i + self.batch_size]) for i in range(0, len(order), self.batch_size))

    def _mapped(self, X: Array) -> Array:
        return X @ self._maps[0].T if self.local is None else np.stack([X @ L.T for L in self._maps])

    def _remember(self, points: Array, codes: npt.NDArray[np.int64]) -> None:
        """Add labelled points to those that vote, each once."""
        rows = np.column_stack([np.concatenate([self._codes, codes]), np.concatenate([self._points, points])])
        rows = np.unique(rows, axis=0)  # its first column sorts by class
        self._points, self._codes = rows[:, 1:], rows[:, 0].astype(np.int64)

    def _publish(self) -> None:
        """Set what users read."""
        if self.solver == "psd" and self.local is None and self._stochastic is None:
            self._maps = self._maps[:, : max(1, np.count_nonzero(self._maps[0].any(axis=1)))]
        maps = self._maps if self._reducer is None else self._maps @ self._reducer
        self.components_ = maps[0] if self.local is None else maps

    def _labelled(self) -> tuple[Labelled, npt.NDArray[np.int64]]:
        """The points that vote, and their classes as positions in `classes_`."""
        present, codes = np.unique(self._codes, return_inverse=True)
        return Labelled(self._maps if self.local is None else self._maps[present], self._points, Classes(codes)), present


def _codes(classes: npt.NDArray[Any], y: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The positions of labels among the sorted classes."""
    codes = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    unknown = classes[codes] != y
    if unknown.any():
        raise ValueError(f"Expected labels in `y` among the classes of the first call, but got {y[unknown][0].item()!r}.")
    return codes
