"""Losses: thin modules over `metriczoo.functional`. Any loss takes any miner, any similarity and any references."""

from metriczoo.losses.base import FunctionLoss, Loss, from_function
from metriczoo.losses.instance import NCELoss
from metriczoo.losses.pair import CircleLoss, ContrastiveLoss, LMNNLoss, TripletMarginLoss, UnifiedLoss
from metriczoo.losses.softmax import AMSoftmaxLoss

__all__ = [
    "AMSoftmaxLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "FunctionLoss",
    "LMNNLoss",
    "Loss",
    "NCELoss",
    "TripletMarginLoss",
    "UnifiedLoss",
    "from_function",
]

CosFaceLoss = AMSoftmaxLoss
