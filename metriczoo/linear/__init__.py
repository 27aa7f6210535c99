r"""Linear metrics as scikit-learn estimators: each learns a matrix L, and compares points after it.

.. math:: d(x, y)^2 = (x - y)^T M (x - y), \qquad M = L^T L

scikit-learn is imported with this module, not with `metriczoo`.
"""

from metriczoo.linear._base import LinearMetric
from metriczoo.linear.lmnn import LMNN
from metriczoo.linear.mahalanobis import Mahalanobis
from metriczoo.linear.mmc import MMC
from metriczoo.linear.nca import NCA

__all__ = ["LMNN", "MMC", "NCA", "LinearMetric", "Mahalanobis"]
