"""Huffman trees: the ways from the root to each leaf."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["huffman"]


def huffman(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The binary tree over n leaves whose average depth, weighted by `weights` `[n]`, is smallest.

    Returns:
        For each leaf the inner nodes, in 0 ... n - 2, on the way to it, `[n, depth]` int32, and the turn it takes there, `[n, depth]` int8:
        1 left, -1 right, 0 for cells beyond the end of the way. The root is node n - 2.

    References:
        Huffman. A Method for the Construction of Minimum-Redundancy Codes. Proceedings of the IRE 40, 1952; in linear time with two queues.
    """
    n = len(weights)
    parent, turn = _merge(weights)
    at = torch.arange(n)
    nodes, turns = [], []
    while bool((at != 2 * n - 2).any()):  # the root, the last one to be made, is above all
        below_root = at != 2 * n - 2
        nodes.append(torch.where(below_root, parent[at] - n, 0))
        turns.append(torch.where(below_root, turn[at], 0))
        at = torch.where(below_root, parent[at], at)
    if not nodes:
        return torch.zeros(n, 0, dtype=torch.int32), torch.zeros(n, 0, dtype=torch.int8)
    return torch.stack(nodes, dim=1).int(), torch.stack(turns, dim=1).to(torch.int8)


def _merge(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Parent and turn of each of the 2 n - 1 nodes: the leaves, then the inner nodes in the order in which they are made."""
    ordered, order = weights.double().sort(stable=True)
    leaves, names, n = ordered.tolist(), order.tolist(), len(weights)
    made: list[float] = []  # inner nodes come in order of their weights, so each smallest one is at the head of one of two queues
    parent, turn = [0] * (2 * n - 1), [0] * (2 * n - 1)
    leaf = inner = 0
    for node in range(n, 2 * n - 1):
        total = 0.0
        for side in (1, -1):
            if leaf < n and (inner == len(made) or leaves[leaf] <= made[inner]):
                child, weight, leaf = names[leaf], leaves[leaf], leaf + 1
            else:
                child, weight, inner = n + inner, made[inner], inner + 1
            parent[child], turn[child], total = node, side, total + weight
        made.append(total)
    return torch.tensor(parent), torch.tensor(turn)
