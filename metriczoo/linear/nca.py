"""Neighbourhood components analysis: a linear map that makes a random neighbour one of the own class."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from torch import Tensor

from metriczoo._checks import check_choice, check_count, check_number
from metriczoo.functional import nca
from metriczoo.linear._base import Array, SupervisedLinearMetric
from metriczoo.linear._checks import as_classes, as_init, as_labelled, as_rank
from metriczoo.linear._initial import initial_map, without_mean
from metriczoo.linear._progress import Progress
from metriczoo.losses import Loss, NCALoss, from_function
from metriczoo.references import References
from metriczoo.scores import Scores
from metriczoo.similarity import NegativeSquaredEuclidean

__all__ = ["NCA"]

_CELLS = 2**17  # of a tile, that stays in the cache
_NORM = 4.0  # root mean square of the points to start from; errors in validation within training points hardly differ from 3 to 5
_PATIENCE = 5  # epochs without a better mean after which mini-batches end


class NCA(SupervisedLinearMetric):
    r"""Neighbourhood components analysis: as many points as can be pick a neighbour of their own class.

    .. math:: \min_L \; -\sum_i p_i, \qquad
        p_i = \sum_{j: y_j = y_i} \frac{e^{-\|L x_i - L x_j\|^2}}{\sum_{k \ne i} e^{-\|L x_i - L x_k\|^2}}, \qquad j \ne i

    The sum is the expected number of points that stochastic nearest neighbours classify right. It is not convex: `init` matters.
    Distances are computed in tiles, so that memory does not grow with the square of the number of points. The objective knows distances
    much nearer or farther than 1 by no gradient, so the points are first divided by one number, after which their squared distance to their
    mean is 16 on average: the scale of all features together does not matter, that of one beside another does.

    Args:
        n_components: r, rows of L; None is the number of features, or of the rows of `init` if that is a matrix.
        init: where to start: a matrix `[r, d]`, taken as it is, or of the divided points "pca", "lda", "identity", "random". "auto" is
            "lda" if r is below the number of classes, else "pca" if it is below the number of features and of samples, else "identity".
        objective: "expected", as above, or "log": :math:`-\sum_i \log p_i`, which a point far from all of its class dominates.
        batch_size: anchors per step of Adam, each compared with all points. None: all of them per step, by L-BFGS.
        learning_rate: of mini-batches, as a share of the root mean square of the first map; it falls to 0 over the epochs.
        max_iter: steps of L-BFGS, or epochs of mini-batches, at most.
        tol: relative change of the objective (of L-BFGS also largest entry of its gradient) at which the search ends.
        device: where to compute: a PyTorch device.
        verbose: whether to show a progress bar.
        random_state: seed, or generator, of "random" and of the order of mini-batches.

    Attributes:
        components_: L, `[r, d]`.
        n_iter_: steps, or epochs; 1 of a start that is at an optimum.
        objectives_: `[n_iter_ + 1]`, the objective before and after each step; it never rises. Of mini-batches `[n_iter_]`, the one seen
            during each epoch, which may.

    Raises:
        ValueError: by `fit`, of samples that are not finite, of one class, of classes of one sample each, of an `init` of a wrong shape or
            of zeros.

    Warns:
        ConvergenceWarning: if `max_iter` is too few.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> metric = NCA(n_components=2).fit(X, y)
        >>> metric.transform(X).shape
        (150, 2)
        >>> float(-metric.objectives_[-1]) > 148  # of 150
        True

    Relations:
        With "expected" it is the objective of `sklearn.neighbors.NeighborhoodComponentsAnalysis`, negated, by the same optimiser, in less
        time and memory. With "log" it is that of `losses.NCALoss(reduction="sum")` on the mapped points. `LMNN` looks at the nearest
        neighbours only, and its problem is convex in M.

    References:
        Goldberger, Roweis, Hinton, Salakhutdinov. Neighbourhood Components Analysis. NIPS 2004.
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        init: Any = "auto",
        objective: str = "expected",
        batch_size: int | None = None,
        learning_rate: float = 0.03,
        max_iter: int = 100,
        tol: float = 1e-5,
        device: Any = "cpu",
        verbose: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.init = init
        self.objective = objective
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> NCA:
        """Learn from points with labels.

        Args:
            X: `[n, d]`.
            y: `[n]`, class labels of any type.

        Returns:
            The estimator itself.

        Raises:
            TypeError: of parameters of a wrong type.
            ValueError: of wrong parameters, of values that are not finite, of one class, of classes of one sample each.
        """
        X, y = as_labelled(self, X, y)
        classes, codes = as_classes(y)
        if len(classes) == len(X):
            raise ValueError(f"Expected `y` to have a class of at least 2 samples, but all {len(classes)} classes have one.")
        random = check_random_state(self.random_state)
        start = as_init(self.init, self.n_components, X.shape[1])
        rank = as_rank(self.n_components, X.shape[1]) if isinstance(start, str) else len(start)
        centred = without_mean(X)
        unit = _root_mean_square_norm(centred) / _NORM or 1.0  # in which steps and gradients have the same size for all scales of X
        scaled = centred / unit
        first = initial_map(start, scaled, codes, rank, random) if isinstance(start, str) else start * unit
        most, tol = check_count("max_iter", self.max_iter), check_number("tol", self.tol, low=0)
        problem = _Problem(scaled, codes, self.objective, self.device, torch.float32 if self.batch_size else torch.float64)
        progress = Progress("NCA", most, self.verbose)
        if self.batch_size is None:
            self.components_, objectives, converged = _by_lbfgs(problem, first, most, tol, progress)
            self.n_iter_ = len(objectives) - 1
        else:
            size, rate = check_count("batch_size", self.batch_size), check_number("learning_rate", self.learning_rate, low=0, open_low=True)
            rate *= float(np.sqrt((first**2).mean()))
            self.components_, objectives, converged = _by_batches(problem, first, size, rate, most, tol, random, progress)
            self.n_iter_ = len(objectives)
        progress.close()
        self.components_ /= unit
        self.objectives_ = np.array(objectives)
        if not converged:
            steps = "steps" if self.batch_size is None else "epochs"
            warnings.warn(f"NCA did not converge in {self.n_iter_} {steps}: raise `max_iter` or `tol`.", ConvergenceWarning, stacklevel=2)
        return self


def _root_mean_square_norm(points: Array) -> float:
    largest = float(np.abs(points).max()) or 1.0  # whose square could overflow
    return largest * float(np.sqrt(np.square(points / largest).sum(1).mean()))


class _Problem:
    """The objective, a sum over anchors, and its gradient by the map."""

    def __init__(self, X: Array, codes: Any, objective: str, device: Any, dtype: torch.dtype) -> None:
        self.expected = check_choice("objective", objective, ["expected", "log"]) == "expected"
        order = np.argsort(codes, kind="stable")
        self.X, self.codes = torch.as_tensor(X[order], dtype=dtype, device=device), torch.as_tensor(codes[order], device=device)
        self.ids = torch.arange(len(X), device=device)
        self.loss: Loss = _expected() if self.expected else NCALoss(reduction="sum")

    def __call__(self, L: Tensor, anchors: Tensor | None = None) -> Tensor:
        """The sum over all anchors, or over some of them."""
        Z = self.X @ L.T
        if anchors is None:
            whole: Tensor = self.loss(Z, self.codes)
            return whole
        some: Tensor = self.loss(Z[anchors], self.codes[anchors], References(Z, self.codes, self.ids), ids=anchors)
        return some

    def slope(self, L: Tensor) -> tuple[float, Tensor]:
        """The sum over all anchors, and its gradient `[r, d]`."""
        if self.expected:
            return self._slope_of_shares(L)
        L = L.requires_grad_()
        value = self(L)
        return float(value.detach()), torch.autograd.grad(value, L)[0]

    def _slope_of_shares(self, L: Tensor) -> tuple[float, Tensor]:
        """What the loss gives, in fewer passes over the pairs: by the gradient in closed form, on points sorted by class.

        With P the softmax of an anchor, p the sum of P over its class, and S the pairs of one class: dp / d(-distance^2) = P (S - p).
        """
        Z = self.X @ L.T
        norms, total = (Z * Z).sum(1), Z.new_zeros(())
        low_rank = 2 * len(L) < self.X.shape[1]
        carried, by_column = Z if low_rank else self.X, torch.zeros_like(norms)
        forward, backward = torch.zeros_like(carried), torch.zeros_like(carried)
        height = max(1, _CELLS // len(Z))
        for begin in range(0, len(Z), height):
            rows = slice(begin, min(begin + height, len(Z)))
            P = torch.addmm(norms, Z[rows], Z.T, beta=-1, alpha=2)  # less the norm of the anchor, which cancels
            P[self.ids[: len(P)], self.ids[rows]] = -torch.inf
            P = torch.softmax(P, 1)
            ends = torch.searchsorted(self.codes, self.codes[[rows.start, rows.stop - 1]] + torch.tensor([0, 1], device=P.device))
            classes = slice(int(ends[0]), int(ends[1]))  # the columns of the classes of these anchors
            own = P[:, classes] * (self.codes[rows, None] == self.codes[classes])
            shares = own.sum(1, keepdim=True)
            total += shares.sum()
            P.mul_(-shares)[:, classes].add_(own)
            torch.mm(P, carried, out=forward[rows])
            if low_rank:
                backward.addmm_(P.T, Z[rows])
            by_column += P.sum(0)
        by_point = forward + backward - by_column[:, None] * carried
        gradient = by_point.T @ self.X if low_rank else Z.T @ by_point + L @ (forward.T @ self.X)  # which needs no products with P.T
        return -float(total), -2 * gradient


def _expected() -> Loss:
    def share(s_n: Scores, s_p: Scores) -> Tensor:
        return -torch.exp(-nca(s_n, s_p))

    return from_function(share, similarity=NegativeSquaredEuclidean(), reduction="sum")


def _by_lbfgs(problem: _Problem, first: Array, most: int, tol: float, progress: Progress) -> tuple[Array, list[float], bool]:
    seen: list[float] = []  # the value at the last point that was tried, which is the one that is accepted
    objectives: list[float] = []

    def evaluate(flat: Array) -> tuple[float, Array]:
        value, gradient = problem.slope(torch.tensor(flat.reshape(first.shape), dtype=problem.X.dtype, device=problem.X.device))
        seen[:] = [value]
        if not objectives:
            objectives.append(value)
        return value, gradient.double().cpu().numpy().ravel()

    def accept(flat: Array) -> None:
        objectives.append(seen[0])
        progress.step(seen[0])

    options = {"maxiter": most, "maxfun": 20 * most, "ftol": tol, "gtol": tol}
    found = minimize(evaluate, first.ravel(), jac=True, method="L-BFGS-B", callback=accept, options=options)
    if len(objectives) == 1:  # nothing to gain: scikit-learn expects of all estimators that they count a step
        accept(first)
    return found.x.reshape(first.shape), objectives, bool(found.success)


def _by_batches(
    problem: _Problem,
    first: Array,
    size: int,
    rate: float,
    most: int,
    tol: float,
    random: np.random.RandomState,
    progress: Progress,
) -> tuple[Array, list[float], bool]:
    L = torch.tensor(first, dtype=problem.X.dtype, device=problem.X.device, requires_grad=True)
    optimizer = torch.optim.Adam([L], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=most)
    objectives: list[float] = []
    for _ in range(most):
        total = torch.zeros((), dtype=torch.float64)
        for anchors in _batches(len(problem.X), size, random):
            value = problem(L, anchors.to(L.device))
            optimizer.zero_grad()
            (value / len(anchors)).backward()
            optimizer.step()
            total += value.detach().cpu()
        schedule.step()
        objectives.append(float(total))
        progress.step(objectives[-1])
        if _settled(objectives, tol):
            break
    return L.detach().double().cpu().numpy(), objectives, _settled(objectives, tol)


def _batches(n: int, size: int, random: np.random.RandomState) -> Iterator[Tensor]:
    yield from torch.from_numpy(random.permutation(n)).split(size)


def _settled(objectives: list[float], tol: float) -> bool:
    """Whether the best of the last epochs is hardly better than the best before."""
    if len(objectives) <= _PATIENCE:
        return False
    before, after = min(objectives[:-_PATIENCE]), min(objectives[-_PATIENCE:])
    return before - after <= tol * abs(before)
