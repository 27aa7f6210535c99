"""Stores of points that outlive a batch. All give `references()`, and all their state is in `state_dict`."""

from metriczoo.stores.memory_bank import MemoryBank
from metriczoo.stores.proxies import Proxies
from metriczoo.stores.queue import EmbeddingQueue

__all__ = ["EmbeddingQueue", "MemoryBank", "Proxies"]
