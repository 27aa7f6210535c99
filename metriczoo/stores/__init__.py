"""Stores of points that outlive a batch. All give `references()`, and all their state is in `state_dict`."""

from metriczoo.stores.centers import Centers
from metriczoo.stores.clusters import ClusterIndex
from metriczoo.stores.memory_bank import MemoryBank
from metriczoo.stores.proxies import Proxies
from metriczoo.stores.queue import EmbeddingQueue

__all__ = ["Centers", "ClusterIndex", "EmbeddingQueue", "MemoryBank", "Proxies"]
