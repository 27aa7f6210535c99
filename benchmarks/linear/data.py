"""Tables of points with labels, and how they are cut and scaled."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

__all__ = ["DATA", "EMBEDDED", "Split", "load", "split"]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

_TEST_SHARE = 0.3
_SQUARED_NORM = 16.0  # mean over training points where all features have one unit; letter, of 16 features, then has variances near 1
_FILES = {"letter": "letter.npz", "isolet": "isolet.npz", "coil20": "coil20.npz", "mnist": "mnist_t10k.npz"}
_COMPONENTS = {"isolet": 172, "coil20": 100, "mnist": 164}  # isolet and mnist as in the LMNN paper


@dataclass(frozen=True)
class Source:
    """A data set."""

    read: Callable[[Path], tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]]
    title: str
    units: bool  # whether each feature has a unit of its own, so that all are brought to variance 1
    components: int | None = None  # principal components, of images and sounds


def _embedded(name: str) -> Callable[[Path], tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]]:
    return lambda root: getattr(datasets, f"load_{name}")(return_X_y=True)


def _file(name: str) -> Callable[[Path], tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]]:
    def read(root: Path) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
        path = next((p for p in (root / "tabular" / _FILES[name], root / _FILES[name]) if p.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"{name} is read from {_FILES[name]}, with arrays X and y, in {root} or its folder tabular, and is not there: "
                "say where by --root or METRICZOO_DATA."
            )
        with np.load(path) as arrays:
            if not {"X", "y"} <= arrays.keys():
                raise ValueError(f"{path} holds {sorted(arrays)}, not X and y.")
            return arrays["X"], arrays["y"]

    return read


DATA = {
    "iris": Source(_embedded("iris"), "Iris", units=True),
    "wine": Source(_embedded("wine"), "Wine", units=True),
    "breast_cancer": Source(_embedded("breast_cancer"), "Breast cancer", units=True),
    "digits": Source(_embedded("digits"), "Digits (8 x 8)", units=False),
    **{
        name: Source(_file(name), title, units=False, components=_COMPONENTS.get(name))
        for name, title in (("letter", "Letter"), ("isolet", "Isolet"), ("coil20", "COIL-20"), ("mnist", "MNIST, 10,000 images"))
    },
}
EMBEDDED = ("iris", "wine", "breast_cancer", "digits")  # those that scikit-learn ships


@dataclass(frozen=True, eq=False)
class Split:
    """Training and test points, scaled by what the training points are like."""

    X: Array  # [n, d]
    y: Labels  # [n], 0 ... C - 1
    X_test: Array  # [m, d]
    y_test: Labels  # [m]

    @property
    def sizes(self) -> dict[str, int]:
        """What a record says of it."""
        return {"train": len(self.X), "test": len(self.X_test), "classes": int(self.y.max()) + 1, "features": self.X.shape[1]}


def load(name: str, root: str | None, classes: int | None = None, most: int | None = None) -> tuple[Array, Labels]:
    """Points `[n, d]` and labels 0 ... C - 1 of the data set called `name`: all, or `most` of each of the first `classes`.

    Raises:
        OSError: there is no such file.
        ValueError: it does not hold points and labels.
    """
    found, labels = DATA[name].read(Path(root or os.environ.get("METRICZOO_DATA") or Path(__file__).parents[3] / "shared" / "data"))
    if len(found) != len(labels) or labels.ndim != 1:
        raise ValueError(f"{name} has {len(found)} points, but labels of shape {list(labels.shape)}.")
    X = found.reshape(len(found), -1).astype(np.float64)
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    places = np.zeros(len(codes), dtype=np.int64)  # of each point within its class
    for code in range(int(codes.max()) + 1):
        places[codes == code] = np.arange((codes == code).sum())
    kept = (codes < (classes or len(codes))) & (places < (most or len(codes)))
    return X[kept], codes[kept]


def split(name: str, X: Array, y: Labels, seed: int) -> Split:
    """70 % of each class for training, 30 % for the test, by the seed."""
    X, X_test, y, y_test = train_test_split(X, y, test_size=_TEST_SHARE, stratify=y, random_state=seed)
    mean = X.mean(0)
    X, X_test = X - mean, X_test - mean
    source = DATA[name]
    if source.components is not None:
        pca = PCA(min(source.components, min(X.shape) - 1), svd_solver="covariance_eigh" if len(X) > X.shape[1] else "full").fit(X)
        X, X_test = X @ pca.components_.T, X_test @ pca.components_.T
    deviation = X.std(0)
    unit = np.where(deviation > 0, deviation, 1.0) if source.units else np.sqrt((X**2).sum(1).mean() / _SQUARED_NORM)
    return Split(X / unit, y, X_test / unit, y_test)
