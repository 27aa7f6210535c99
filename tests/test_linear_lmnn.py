"""`LMNN` as an estimator: scikit-learn's checks, its options, bad input, and what it brings on real data."""

from __future__ import annotations

import pickle
import resource
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from metriczoo.linear import LMNN
from metriczoo.linear._lmnn_impostors import Classes
from metriczoo.linear._lmnn_objective import Objective, Targets


@parametrize_with_checks([LMNN(), LMNN(solver="minibatch", max_iter=20)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::sklearn.exceptions.SkipTestWarning")
def test_sklearn(estimator, check):
    check(estimator)


def _blobs(n=90, d=3, num_classes=3, seed=0, noise=8.0):
    """Classes apart along the first feature, drowned in the others."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % num_classes
    X = random.normal(size=(n, d))
    X[:, 0] = 3 * y + random.normal(size=n) * 0.5
    X[:, 1:] *= noise
    return X, y


def _split(load, seed=0):
    X, y = load(return_X_y=True)
    return train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestFit:
    @pytest.mark.parametrize("solver", ["lbfgs", "psd"])
    @pytest.mark.parametrize("local", [None, "class"])
    @pytest.mark.parametrize("penalty", ["hinge", "squared"])
    def test_objective_never_rises(self, solver, local, penalty):
        X, y = _blobs()
        lmnn = LMNN(solver=solver, local=local, penalty=penalty, n_passes=3, tol=1e-3, max_iter=40).fit(X, y)
        assert (np.diff(lmnn.objectives_) <= 1e-9 * lmnn.objectives_[0]).all()
        assert lmnn.objectives_[-1] < 0.5 * lmnn.objectives_[0]
        assert lmnn.n_iter_ >= 3 and lmnn.n_impostors_ >= 0
        assert np.linalg.eigvalsh(lmnn.get_mahalanobis_matrix()).min() > -1e-12

    def test_first_value_is_that_of_the_start(self):
        X, y = _blobs()
        lmnn = LMNN(init=np.eye(3), mu=0.3, margin=2.0).fit(X, y)
        order = np.argsort(y, kind="stable")
        X, classes = X[order] - X.mean(0), Classes(y[order])
        objective = Objective(X, classes, Targets(X, classes, 3), mu=0.3, margin=2.0, squared=False, local=False)
        assert lmnn.objectives_[0] == pytest.approx(objective(np.eye(3)[None])[0], rel=1e-12)
        assert lmnn.objectives_[-1] == pytest.approx(objective(lmnn.components_[None])[0], rel=1e-9)
        assert lmnn.n_impostors_ == objective.num_impostors

    @pytest.mark.parametrize("solver", ["lbfgs", "psd", "minibatch"])
    @pytest.mark.parametrize("local", [None, "class"])
    def test_noise_is_turned_down(self, solver, local):
        X, y = _blobs(300)
        lmnn = LMNN(solver=solver, local=local, random_state=0, max_iter=40, batch_size=64).fit(X[::2], y[::2])
        assert lmnn.score(X[1::2], y[1::2]) > 0.95 > KNeighborsClassifier(3).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) + 0.05
        assert lmnn.set_params(classify="energy").score(X[1::2], y[1::2]) > 0.95

    def test_minibatch_comes_near_the_optimum(self):
        X, y = _blobs(200)
        exact = LMNN().fit(X, y)
        batches = LMNN(solver="minibatch", random_state=0, batch_size=32, max_iter=150).fit(X, y)
        order = np.argsort(y, kind="stable")
        X, classes = X[order] - X.mean(0), Classes(y[order])
        objective = Objective(X, classes, Targets(X, classes, 3), mu=0.5, margin=1.0, squared=False, local=False)
        assert objective(batches.components_[None])[0] < 1.03 * exact.objectives_[-1]

    @pytest.mark.parametrize("solver", ["lbfgs", "minibatch"])
    def test_is_seeded(self, solver):
        X, y = _blobs()
        first, second = (LMNN(solver=solver, init="random", random_state=3, max_iter=5).fit(X, y).components_ for _ in range(2))
        np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("init", ["auto", "pca", "lda", "identity", "random"])
    def test_rank(self, init):
        X, y = _blobs(d=5, num_classes=4)
        lmnn = LMNN(n_components=2, init=init, random_state=0).fit(X, y)
        assert lmnn.components_.shape == (2, 5) and lmnn.transform(X).shape == (90, 2)
        assert np.linalg.matrix_rank(lmnn.get_mahalanobis_matrix()) == 2
        assert list(lmnn.get_feature_names_out()) == ["lmnn0", "lmnn1"]

    def test_pca(self):
        X, y = _blobs(d=6, noise=1.0)
        lmnn = LMNN(pca=2).fit(X, y)
        assert lmnn.components_.shape == (2, 6)
        share = LMNN(pca=0.7).fit(X, y)
        assert 1 <= len(share.components_) < 6
        np.testing.assert_array_equal(lmnn.predict(X), KNeighborsClassifier(3).fit(lmnn.transform(X), y).predict(lmnn.transform(X)))

    def test_scale_of_the_input_does_not_matter(self):
        X, y = _blobs()
        ends = [LMNN(tol=1e-8, max_iter=1000).fit(X * scale, y).objectives_[-1] for scale in (1e-4, 1, 1e5)]
        np.testing.assert_allclose(ends, ends[1], rtol=2e-3)

    @pytest.mark.parametrize("solver", ["lbfgs", "psd"])
    def test_margin_is_a_unit(self, solver):
        X, y = _blobs()
        ends = [LMNN(margin=margin, solver=solver).fit(X, y).objectives_[-1] / margin for margin in (1e-6, 1.0)]
        assert ends[0] == pytest.approx(ends[1], rel=0.01)

    def test_pca_of_points_with_a_large_offset(self):
        X, y = np.random.default_rng(0).integers(0, 99, (90, 4)) * [1.0, 2.0, 4.0, 8.0], np.arange(90) % 3
        near, far = (LMNN(pca=2, max_iter=5).fit(X + offset, y)._reducer for offset in (0, 1e9))
        np.testing.assert_allclose(far, near, rtol=1e-6)

    def test_order_of_the_points_does_not_matter(self):
        X, y = _blobs()
        order = np.random.default_rng(0).permutation(len(X))
        np.testing.assert_allclose(
            LMNN(max_iter=5).fit(X, y).get_mahalanobis_matrix(),
            LMNN(max_iter=5).fit(X[order], y[order]).get_mahalanobis_matrix(),
            rtol=1e-6,
        )

    def test_verbose(self, capsys):
        LMNN(verbose=1, max_iter=4).fit(*_blobs())
        assert "LMNN" in capsys.readouterr().err
        LMNN(max_iter=4).fit(*_blobs())
        assert capsys.readouterr().err == ""


class TestPredict:
    def test_neighbours_vote(self):
        X, _, y, _ = _split(load_iris)
        lmnn = LMNN(5).fit(X, y)
        grid = X + np.random.default_rng(0).normal(size=X.shape) * 0.3
        voters = KNeighborsClassifier(5).fit(lmnn.transform(X), y)
        np.testing.assert_array_equal(lmnn.predict(grid), voters.predict(lmnn.transform(grid)))

    @pytest.mark.parametrize("local", [None, "class"])
    @pytest.mark.parametrize("penalty", ["hinge", "squared"])
    def test_energies_by_loops(self, local, penalty):
        X, y = _blobs(24, num_classes=2)
        lmnn = LMNN(2, local=local, penalty=penalty, mu=0.3, tol=1e-3).fit(X, y)
        maps = np.broadcast_to(lmnn.components_, (2, 3, 3))

        def distance(a, b, label):
            return float(((maps[label] @ (a - b)) ** 2).sum())

        def phi(v):
            return max(v, 0.0) ** (2 if penalty == "squared" else 1)

        new = np.random.default_rng(1).normal(size=(4, 3)) * 3
        expected = np.zeros((4, 2))
        for m, t in enumerate(new):
            for label in range(2):
                others = np.flatnonzero(y != label)
                targets = sorted(distance(t, x, label) for x in X[y == label])[:2]
                invaded = sum(phi(1 + own - distance(t, X[j], y[j])) for own in targets for j in others)
                invades = 0.0
                for i in others:  # targets of a training point are those that were fixed before the fit
                    near = sorted((j for j in np.flatnonzero(y == y[i]) if j != i), key=lambda j, i=i: ((X[i] - X[j]) ** 2).sum())[:2]
                    invades += sum(phi(1 + distance(X[i], X[j], y[i]) - distance(X[i], t, label)) for j in near)
                expected[m, label] = 0.7 * sum(targets) + 0.3 * (invaded + invades)
        np.testing.assert_allclose(lmnn.energies(new), expected, rtol=1e-9)
        np.testing.assert_array_equal(lmnn.set_params(classify="energy").predict(new), expected.argmin(1))

    def test_string_labels(self):
        X, y = _blobs()
        names = np.array(["ant", "bee", "cat"])
        lmnn = LMNN().fit(X, names[y])
        assert list(lmnn.classes_) == list(names) and set(lmnn.predict(X)) <= set(names)
        np.testing.assert_array_equal(lmnn.predict(X), names[LMNN().fit(X, y).predict(X)])

    def test_before_fit(self):
        with pytest.raises(NotFittedError):
            LMNN().predict(np.zeros((2, 3)))
        with pytest.raises(NotFittedError):
            LMNN().energies(np.zeros((2, 3)))


class TestLocal:
    def test_one_map_per_class(self):
        X, y = _blobs()
        lmnn = LMNN(local="class").fit(X, y)
        assert lmnn.components_.shape == lmnn.get_mahalanobis_matrix().shape == (3, 3, 3)
        for ask in (
            lmnn.transform,
            lambda X: lmnn.pair_distance(X[:, None].repeat(2, 1)),
            lambda X: lmnn.score_pairs(X[:, None].repeat(2, 1)),
            lambda X: lmnn.get_feature_names_out(),
        ):
            with pytest.raises(ValueError, match="`local` to be None"):
                ask(X)
        assert lmnn.objectives_[-1] < LMNN().fit(X, y).objectives_[-1]

    def test_neighbours_vote_by_the_map_of_their_class(self):
        X, y = _blobs()
        lmnn = LMNN(local="class").fit(X, y)
        new = np.random.default_rng(1).normal(size=(20, 3)) * 3
        gaps = np.stack([(((new - x) @ lmnn.components_[c].T) ** 2).sum(1) for x, c in zip(X, y, strict=True)], axis=1)
        votes = y[np.argsort(gaps, axis=1)[:, :3]]
        np.testing.assert_array_equal(lmnn.predict(new), [np.bincount(v).argmax() for v in votes])


class TestPartialFit:
    def test_learns_from_parts(self):
        X, y = _blobs(400)
        lmnn = LMNN(random_state=0, batch_size=32)
        for _ in range(12):
            for part in range(4):
                lmnn.partial_fit(X[100 * part : 100 * part + 50], y[100 * part : 100 * part + 50], classes=[0, 1, 2])
        test = np.arange(400) % 100 >= 50
        assert lmnn.score(X[test], y[test]) > KNeighborsClassifier(3).fit(X[~test], y[~test]).score(X[test], y[test]) + 0.05
        assert lmnn.n_iter_ == len(lmnn.objectives_) == 48
        assert len(lmnn._points) == 200  # each point once, however often it came

    def test_goes_on_after_fit(self):
        X, y = _blobs()
        lmnn = LMNN(random_state=0, tol=1e-3).fit(X[:60], y[:60])
        before = lmnn.components_.copy()
        lmnn.partial_fit(X[60:], y[60:])
        assert 0 < np.abs(lmnn.components_ - before).max() < np.abs(before).max()
        assert len(lmnn._points) == 90 and pickle.loads(pickle.dumps(lmnn)).partial_fit(X, y).score(X, y) > 0.8

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_goes_on_after_projections(self):
        X, y = _blobs()
        assert LMNN(solver="psd", random_state=0).fit(X, y).partial_fit(X, y).score(X, y) > 0.8

    def test_class_that_is_not_there_yet(self):
        X, y = _blobs()
        lmnn = LMNN(random_state=0).partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2])
        assert np.isinf(lmnn.energies(X)[:, 2]).all() and set(lmnn.predict(X)) == {0, 1}
        lmnn.partial_fit(X[y == 2], y[y == 2])
        assert set(lmnn.predict(X)) == {0, 1, 2}

    def test_unknown_label(self):
        X, y = _blobs()
        with pytest.raises(ValueError, match="among the classes of the first call, but got 2"):
            LMNN().partial_fit(X, y, classes=[0, 1])


class TestBadInput:
    def test_one_class(self):
        with pytest.raises(ValueError, match="at least 2 classes"):
            LMNN().fit(np.eye(8), np.zeros(8))

    def test_small_class_is_named(self):
        X, y = _blobs(30)
        y = np.where(np.arange(30) < 3, 7, y)
        with pytest.raises(ValueError, match="at least n_neighbors \\+ 1 = 4 points of each class, but class 7 has 3"):
            LMNN().fit(X, y)

    @pytest.mark.parametrize("local", [None, "class"])
    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_small_class_with_fewer_targets(self, size, local):
        X, y = _blobs(30)
        y = np.where(np.arange(30) < size, 7, y)
        lmnn = LMNN(small_classes="fewer", local=local).fit(X, y)
        assert np.isfinite(lmnn.energies(X)).all() and np.isfinite(lmnn.components_).all()
        chosen = lmnn._targets.index[-size:][lmnn._targets.real[-size:]]
        assert len(chosen) == size * (size - 1)

    def test_no_class_has_two_points(self):
        with pytest.raises(ValueError, match="a class of its own"):
            LMNN(small_classes="fewer").fit(np.eye(5), np.arange(5))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"init": np.eye(4)}, "`init`"),
            ({"init": np.zeros((3, 3))}, "other than 0"),
            ({"init": "pcaa"}, "Did you mean 'pca'"),
            ({"n_components": 9}, "`n_components`"),
            ({"solver": "bfgs"}, "Did you mean 'lbfgs'"),
            ({"solver": "psd", "n_components": 2}, "full rank"),
            ({"mu": 1.5}, "`mu`"),
            ({"margin": 0}, "`margin`"),
            ({"pca": 4}, "`pca` to be at most 3"),
            ({"pca": 1.5}, "`pca`"),
            ({"local": "points"}, "`local`"),
            ({"classify": "nn"}, "`classify`"),
            ({"n_passes": 0}, "`n_passes`"),
            ({"tol": -1}, "`tol`"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            LMNN(**options).fit(*_blobs())

    @pytest.mark.parametrize("solver", ["lbfgs", "psd", "minibatch"])
    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_degenerate_points_have_a_result(self, solver):
        random = np.random.default_rng(0)
        y = np.arange(12) % 2
        for X in (
            np.zeros((12, 3)),
            np.ones((12, 1)),
            random.integers(0, 2, (12, 2)).astype(float),
            random.normal(size=(12, 40)) * [1e3] * 40,
        ):
            lmnn = LMNN(solver=solver, max_iter=10, random_state=0).fit(X, y)
            assert np.isfinite(lmnn.components_).all() and np.isfinite(lmnn.objectives_).all()
            assert set(lmnn.predict(X)) <= {0, 1} and np.isfinite(lmnn.energies(X)).all()

    @pytest.mark.parametrize("options", [{"pca": 0.9}, {"pca": 2}, {"n_components": 2}, {"n_components": 2, "init": "lda"}])
    def test_equal_points_have_a_result_after_a_reduction(self, options):
        lmnn = LMNN(**options).fit(np.full((12, 3), 0.1), np.arange(12) % 2)
        assert np.isfinite(lmnn.components_).all() and np.isfinite(lmnn.energies(np.eye(3))).all()

    def test_constant_feature(self):
        X, y = _blobs()
        lmnn = LMNN().fit(np.column_stack([X, np.full(len(X), 1e6)]), y)
        assert lmnn.score(np.column_stack([X, np.full(len(X), 1e6)]), y) > 0.9

    @pytest.mark.parametrize("scale", [1e4, 1e8, 1e12])
    @pytest.mark.parametrize("options", [{}, {"solver": "psd"}, {"penalty": "squared"}, {"local": "class"}, {"margin": 1e-3}], ids=str)
    def test_features_lost_beside_one_of_a_large_scale_are_told(self, options, scale):
        X, y = load_wine(return_X_y=True)
        X = X / X.std(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LMNN(**options).fit(X, y)
        X[:, 0] *= scale
        with pytest.warns(ConvergenceWarning, match="cannot see some features"):
            LMNN(**options).fit(X, y)

    def test_max_iter_warns(self):
        with pytest.warns(ConvergenceWarning, match="max_iter=2"):
            LMNN(max_iter=2).fit(*_blobs())


def test_in_pipeline_and_grid():
    X, X_test, y, y_test = _split(load_wine)
    pipeline = make_pipeline(StandardScaler(), LMNN(max_iter=50, tol=1e-3))
    search = GridSearchCV(pipeline, {"lmnn__mu": [0.3, 0.5], "lmnn__n_components": [2, None]}, cv=2).fit(X, y)
    assert search.score(X_test, y_test) > 0.9
    fitted = search.best_estimator_[-1]
    assert not hasattr(clone(fitted), "components_")
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(X_test), search.predict(X_test))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer])
def test_below_euclidean_on_small_sets(load):
    ours, euclidean = [], []
    for seed in range(3):
        X, X_test, y, y_test = _split(load, seed)
        ours.append(LMNN(max_iter=50).fit(X, y).score(X_test, y_test))
        euclidean.append(KNeighborsClassifier(3).fit(X, y).score(X_test, y_test))
    assert np.mean(ours) >= np.mean(euclidean) - 0.005


def _letter(root, num):
    with np.load(root / "tabular" / "letter.npz") as file:
        X, y = file["X"].astype(float), file["y"]
    return X[:num], y[:num], X[-3000:], y[-3000:]


def test_letter(real_data):
    X, y, X_test, y_test = _letter(real_data, 5000)
    lmnn = LMNN(tol=1e-4).fit(X, y)
    euclidean = 1 - KNeighborsClassifier(3).fit(X, y).score(X_test, y_test)
    assert 1 - lmnn.score(X_test, y_test) < 0.9 * euclidean
    assert 1 - lmnn.set_params(classify="energy").score(X_test, y_test) < 0.75 * euclidean


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_memory_does_not_grow_with_the_square(real_data):
    """All distances of 16,000 points would take 1 GB in single precision; the peak may rise by a fraction of that."""
    X, y, _, _ = _letter(real_data, 16000)
    LMNN(max_iter=3).fit(X[:4000], y[:4000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    LMNN(max_iter=3).fit(X, y)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 300
