"""Miners: which pairs of an anchor a loss sees. Any miner stands before any loss."""

from metriczoo.miners.base import Miner
from metriczoo.miners.distance_weighted import DistanceWeightedMiner
from metriczoo.miners.hard import HardMiner
from metriczoo.miners.nearest import PriorityMiner, SemiHardMiner

__all__ = ["DistanceWeightedMiner", "HardMiner", "Miner", "PriorityMiner", "SemiHardMiner"]
