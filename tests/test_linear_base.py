"""What all linear metrics share: they are scikit-learn estimators, and metrics."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from metriczoo.linear import MMC, NCA, LinearMetric, Mahalanobis
from metriczoo.linear._initial import initial_map, map_of_metric

ESTIMATORS = [
    Mahalanobis(),
    Mahalanobis(shrinkage="auto"),
    MMC(),
    MMC(diagonal=True),
    NCA(),
    NCA(batch_size=16, n_components=1, max_iter=5),
]
EACH = pytest.mark.parametrize("estimator", [Mahalanobis(), MMC(), NCA(max_iter=20)], ids=lambda e: type(e).__name__)
unconverged = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X[::2], y[::2]


@unconverged
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn(estimator, check):
    check(estimator)


# ---- as an estimator


@unconverged
@EACH
def test_in_a_pipeline_and_a_grid_search(estimator, iris):
    steps = make_pipeline(StandardScaler(), estimator, KNeighborsClassifier())
    search = GridSearchCV(steps, {"kneighborsclassifier__n_neighbors": [1, 3]}, cv=3)
    assert search.fit(*iris).best_score_ > 0.8


@unconverged
@EACH
def test_a_clone_fits_the_same_and_a_pickle_is_the_same(estimator, iris):
    fitted, again = clone(estimator).set_params(**_seed(estimator)).fit(*iris), clone(estimator).set_params(**_seed(estimator)).fit(*iris)
    np.testing.assert_array_equal(fitted.components_, again.components_)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(iris[0]), fitted.transform(iris[0]))
    assert not hasattr(clone(fitted), "components_")


def _seed(estimator):
    return {"random_state": 3} if "random_state" in estimator.get_params() else {}


@unconverged
@EACH
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(estimator, library, iris):
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    X, y = iris
    names = ["a", "b", "c", "d"]
    table = frames.DataFrame({name: X[:, k] for k, name in enumerate(names)})
    fitted = clone(estimator).set_params(**_seed(estimator)).fit(table, y).set_output(transform=library)
    out = fitted.transform(table)
    assert isinstance(out, frames.DataFrame)
    prefix = type(estimator).__name__.lower()
    assert list(out.columns) == [f"{prefix}{k}" for k in range(len(fitted.components_))] == fitted.get_feature_names_out().tolist()
    assert fitted.feature_names_in_.tolist() == names
    np.testing.assert_allclose(out.to_numpy(), X @ fitted.components_.T)


@unconverged
@EACH
def test_labels_of_any_type_name_classes(estimator, iris):
    X, y = iris
    expected = clone(estimator).set_params(**_seed(estimator)).fit(X, y).components_
    for labels in (np.array(["setosa", "versicolor", "virginica"])[y], np.array(["a", "b", "c"], dtype=object)[y], y * 7 - 5, (y + 0.0)):
        np.testing.assert_array_equal(clone(estimator).set_params(**_seed(estimator)).fit(X, labels).components_, expected)


# ---- as a metric


@unconverged
@EACH
def test_distances_are_those_of_mapped_points_and_of_the_matrix(estimator, iris):
    X, y = iris
    fitted = clone(estimator).fit(X, y)
    pairs = np.stack([X[:30], X[30:60]], axis=1)
    M = fitted.get_mahalanobis_matrix()
    by_hand = [np.sqrt((a - b) @ M @ (a - b)) for a, b in pairs]
    np.testing.assert_allclose(fitted.pair_distance(pairs), by_hand, atol=1e-12)
    np.testing.assert_array_equal(fitted.score_pairs(pairs), -fitted.pair_distance(pairs))
    mapped = fitted.transform(X)
    np.testing.assert_allclose(np.linalg.norm(mapped[:30] - mapped[30:60], axis=1), by_hand, atol=1e-12)
    np.testing.assert_array_equal(M, M.T)
    assert np.linalg.eigvalsh(M).min() >= -1e-13 * np.abs(M).max()
    assert fitted.pair_distance(np.empty((0, 2, 4))).shape == (0,)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (np.zeros((3, 4)), r"\[m, 2, d\]"),
        (np.zeros((3, 3, 4)), r"\[m, 2, d\]"),
        (np.zeros((3, 2, 5)), "4 features"),
        (np.full((3, 2, 4), np.nan), "NaN"),
    ],
)
def test_wrong_pairs(pairs, message, iris):
    with pytest.raises(ValueError, match=message):
        Mahalanobis().fit(*iris).pair_distance(pairs)


@EACH
def test_nothing_without_fit(estimator):
    for call in (lambda m: m.transform([[0.0]]), lambda m: m.get_mahalanobis_matrix(), lambda m: m.score_pairs([[[0.0], [1.0]]])):
        with pytest.raises(NotFittedError):
            call(clone(estimator))


@EACH
def test_sparse_input_is_refused(estimator, iris):
    from scipy.sparse import csr_array

    with pytest.raises(TypeError, match=r"[Ss]parse"):
        clone(estimator).fit(csr_array(iris[0]), iris[1])


@pytest.mark.parametrize("estimator", [MMC(), NCA()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([[0.0], [1.0], [2.0]], [1, 1, 1], "at least 2 classes"),
        ([[0.0], [1.0], [2.0]], [0, 1, 2], "at least 2 samples"),
        ([[0.0], [np.nan], [2.0]], [0, 1, 1], "NaN"),
        ([[0.0], [np.inf], [2.0]], [0, 1, 1], "infinity"),
        ([[0.0], [1.0], [2.0]], [0, 1], "inconsistent"),
        ([[0.0], [1.0], [2.0]], [0.5, 1.5, 0.7], "Unknown label type"),
        ([[0.0], [1.0], [2.0]], None, "requires y"),
    ],
)
def test_bad_input(estimator, X, y, message):
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(X, y)


@unconverged
@pytest.mark.parametrize("estimator", [MMC(), MMC(diagonal=True), NCA(), NCA(2), NCA(batch_size=16, max_iter=10)], ids=repr)
@pytest.mark.parametrize("kind", ["constant", "duplicates", "wide", "huge", "tiny", "singletons"])
def test_awkward_input_has_a_finite_metric(estimator, kind, iris):
    X, y = iris
    X, y = X[::3].copy(), y[::3].copy()
    if kind == "constant":
        X[:, 1] = 0.1
    elif kind == "duplicates":
        X, y = np.repeat(X, 3, axis=0), np.repeat(y, 3)
    elif kind == "wide":
        X = np.hstack([X, np.random.RandomState(0).randn(len(X), 60)])
    elif kind in ("huge", "tiny"):
        X = X * {"huge": 1e6, "tiny": 1e-6}[kind]
    else:
        y[-6:] = np.arange(10, 16)
    fitted = clone(estimator).set_params(random_state=0).fit(X, y)
    assert np.isfinite(fitted.components_).all()
    assert np.isfinite(fitted.transform(X)).all()
    assert fitted.components_.any()


# ---- the parts


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31 - 1))
def test_square_root_of_a_metric(d, r, seed):
    L = np.random.RandomState(seed).randn(r, d)
    root = map_of_metric(L.T @ L)
    np.testing.assert_allclose(root.T @ root, L.T @ L, atol=1e-12)
    np.testing.assert_allclose(root, root.T, atol=1e-12)


@pytest.mark.parametrize("init", ["auto", "pca", "lda", "identity", "random"])
@pytest.mark.parametrize("shape", [(20, 3), (5, 8)])
def test_initial_maps(init, shape):
    random = np.random.RandomState(0)
    X, codes = random.randn(*shape), np.arange(shape[0]) % 3
    for rank in range(1, shape[1] + 1):
        L = initial_map(init, X, codes, rank, np.random.RandomState(1))
        assert L.shape == (rank, shape[1])
        assert np.isfinite(L).all() and L.any()
    given = np.arange(6.0).reshape(2, 3)
    copy = initial_map(given, X, codes, 2, random)
    assert copy is not given
    np.testing.assert_array_equal(copy, given)


@pytest.mark.parametrize("init", ["pca", "lda"])
def test_initial_maps_where_nothing_varies(init):
    L = initial_map(init, np.full((30, 3), 0.1), np.arange(30) % 3, 2, np.random.RandomState(0))
    assert L.shape == (2, 3) and np.isfinite(L).all() and L.any()


@pytest.mark.parametrize("init", ["pca", "lda"])
def test_an_offset_does_not_change_initial_maps(init):
    X, codes = np.random.RandomState(0).randint(0, 99, (60, 3)) * [1.0, 3.0, 9.0], np.arange(60) % 3
    near, far = (initial_map(init, X + offset, codes, 2, np.random.RandomState(0)) for offset in (0, 1e9))
    np.testing.assert_allclose(far, near, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("init", "n_components", "message"),
    [
        (np.eye(3), None, r"\[r <= 4, 4\]"),
        (np.ones((5, 4)), None, r"\[r <= 4, 4\]"),
        (np.eye(4), 2, r"\[2, 4\]"),
        (np.ones(4), None, r"\[r <= 4, 4\].*shape \[4\]"),
        (np.ones((1, 4, 1)), None, r"\[r <= 4, 4\].*shape \[1, 4, 1\]"),
        (np.ones((0, 4)), None, r"\[r <= 4, 4\].*shape \[0, 4\]"),
        (5, None, r"\[r <= 4, 4\]"),
        ("pcaa", None, "Did you mean 'pca'"),
        ("auto", 5, "at most 4"),
        ("auto", 0, "at least 1"),
        (np.full((2, 4), np.nan), None, "NaN"),
        (np.zeros((2, 4)), None, "other than 0"),
    ],
)
def test_wrong_initial_maps(init, n_components, message, iris):
    with pytest.raises(ValueError, match=message):
        NCA(n_components, init=init).fit(*iris)


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (NCA(objective="logg"), ValueError, "Did you mean 'log'"),
        (NCA(batch_size=0.5), TypeError, "batch_size"),
        (NCA(batch_size=-1), ValueError, "batch_size"),
        (NCA(batch_size=8, learning_rate=0.0), ValueError, "learning_rate"),
        (NCA(max_iter=0), ValueError, "max_iter"),
        (NCA(tol=-1.0), ValueError, "tol"),
        (MMC(max_pairs=0), ValueError, "max_pairs"),
        (MMC(max_iter="many"), TypeError, "max_iter"),
        (MMC(diagonal="yes"), TypeError, "diagonal"),
        (MMC(shrinkage="avto"), ValueError, "Did you mean 'auto'"),
        (MMC(shrinkage=1.5), ValueError, "shrinkage"),
        (Mahalanobis(shrinkage=-0.1), ValueError, "shrinkage"),
        (Mahalanobis(shrinkage=None), TypeError, "shrinkage"),
    ],
    ids=lambda value: repr(value) if isinstance(value, LinearMetric) else "",
)
def test_wrong_parameters(estimator, error, message, iris):
    with pytest.raises(error, match=message):
        estimator.fit(*iris)


@unconverged
def test_progress_is_shown_if_asked_for(iris, capsys):
    NCA(max_iter=3, verbose=True).fit(*iris)
    shown = capsys.readouterr()
    assert "NCA [" in shown.err and "1/3" in shown.err and "objective" in shown.err
    assert shown.out == ""
    NCA(max_iter=3).fit(*iris)
    assert capsys.readouterr().err == ""


def test_scikit_learn_is_not_imported_with_the_library():
    code = "import sys, metriczoo; assert 'sklearn' not in sys.modules; import metriczoo.linear; assert 'sklearn' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
