"""The conformance kit: put any loss, miner, similarity, store or metric through the checks that those of this library are held to."""

from metriczoo.losses.tags import Tags as Tags  # documented with the losses
from metriczoo.testing import strategies, zoo
from metriczoo.testing.losses import LOSS_CHECKS, check_loss, parametrize_with_checks
from metriczoo.testing.metrics import METRIC_CHECKS, check_metric
from metriczoo.testing.miners import MINER_CHECKS, check_miner
from metriczoo.testing.similarities import SIMILARITY_CHECKS, check_similarity
from metriczoo.testing.stores import STORE_CHECKS, check_store
from metriczoo.testing.subject import Subject, pair_weights

__all__ = [
    "LOSS_CHECKS",
    "METRIC_CHECKS",
    "MINER_CHECKS",
    "SIMILARITY_CHECKS",
    "STORE_CHECKS",
    "Subject",
    "check_loss",
    "check_metric",
    "check_miner",
    "check_similarity",
    "check_store",
    "pair_weights",
    "parametrize_with_checks",
    "strategies",
    "zoo",
]
