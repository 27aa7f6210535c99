"""Miners: which pairs of an anchor a loss sees. Any miner stands before any loss."""

from metriczoo.miners.base import Miner
from metriczoo.miners.distance_weighted import DistanceWeightedMiner
from metriczoo.miners.easy_positive import EasyPositiveMiner
from metriczoo.miners.hard import HardMiner
from metriczoo.miners.multi_similarity import MultiSimilarityMiner
from metriczoo.miners.nearest import PriorityMiner, SemiHardMiner
from metriczoo.miners.pair_margin import PairMarginMiner
from metriczoo.miners.random import RandomMiner

__all__ = [
    "DistanceWeightedMiner",
    "EasyPositiveMiner",
    "HardMiner",
    "Miner",
    "MultiSimilarityMiner",
    "PairMarginMiner",
    "PriorityMiner",
    "RandomMiner",
    "SemiHardMiner",
]
