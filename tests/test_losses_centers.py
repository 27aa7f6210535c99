"""Center, triplet-center and magnet loss, and what they stand on: centres, clusters, and batches of clusters."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from metriczoo import functional as F
from metriczoo.data.magnet import MagnetSampler
from metriczoo.losses.centers import CenterLoss, MagnetLoss
from metriczoo.scores import Scores
from metriczoo.stores import Proxies
from metriczoo.stores.centers import Centers
from metriczoo.stores.clusters import ClusterIndex

D = 3


def points(n: int, seed: int, d: int = D) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def d2(x: list[float], y: list[float]) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))


# ---- centres


@given(st.lists(st.integers(-1, 3), max_size=8), st.floats(0, 1), st.randoms(use_true_random=False))
def test_centers_follow_their_rule(labels: list[int], rate: float, source: Any) -> None:
    """Against the rule of the paper, class by class; the order of the batch does not matter."""
    centers = Centers(4, D, rate=rate, dtype=torch.float64)
    start, x = points(4, 1), points(len(labels), 2)
    centers.embeddings.copy_(start)
    centers.update(x, labels)
    for c in range(4):
        own = [row for row, y in zip(x.tolist(), labels, strict=True) if y == c]
        step = [math.fsum(s - row[k] for row in own) / (1 + len(own)) for k, s in enumerate(start[c].tolist())]
        expected = start[c] - rate * torch.tensor(step, dtype=torch.float64)
        torch.testing.assert_close(centers.embeddings[c], expected, rtol=1e-12, atol=1e-12)
    again = Centers(4, D, rate=rate, dtype=torch.float64)
    again.embeddings.copy_(start)
    order = source.sample(range(len(labels)), len(labels))
    again.update(x[order], [labels[i] for i in order])
    torch.testing.assert_close(again.embeddings, centers.embeddings, rtol=1e-12, atol=1e-12)


def test_centers_converge_to_class_means() -> None:
    centers, x = Centers(2, D), points(10, 1).float()
    labels = [0] * 6 + [1] * 4
    for _ in range(200):
        centers.update(x, labels)
    torch.testing.assert_close(centers.embeddings, torch.stack([x[:6].mean(0), x[6:].mean(0)]), rtol=1e-4, atol=1e-5)


def test_centers_are_a_store() -> None:
    centers = Centers(3, 2, dtype=torch.float16)
    centers.update(torch.tensor([[1.0, 2.0]]).requires_grad_(), [2])
    references = centers.references()
    assert references.labels.tolist() == [0, 1, 2]
    assert references.ids.tolist() == [-1, -1, -1]
    assert not references.embeddings.requires_grad
    assert (centers.num_classes, centers.embeddings.dtype) == (3, torch.float16)
    other = Centers(3, 2, dtype=torch.float16)
    other.load_state_dict(centers.state_dict())
    assert torch.equal(other.embeddings, centers.embeddings)
    assert repr(centers) == "Centers(3, 2, dtype=torch.float16, rate=0.5)"


def test_centers_reject_what_makes_no_sense_and_stay_as_they_were() -> None:
    centers = Centers(3, 2)
    before = centers.embeddings.clone()
    bad: list[tuple[type[Exception], str, Any, Any]] = [
        (ValueError, "labels", torch.ones(1, 2), [3]),
        (ValueError, "labels", torch.ones(2, 2), [0]),
        (ValueError, "embeddings", torch.ones(1, 3), [0]),
        (ValueError, "embeddings", torch.tensor([[math.nan, 0.0]]), [0]),
        (TypeError, "embeddings", torch.ones(1, 2, dtype=torch.int64), [0]),
        (TypeError, "labels", torch.ones(1, 2), [0.5]),
    ]
    for error, match, x, labels in bad:
        with pytest.raises(error, match=match):
            centers.update(x, labels)
    assert torch.equal(centers.embeddings, before)
    for rate in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="rate"):
            Centers(3, 2, rate=rate)


def test_centers_by_any_name() -> None:
    loss = CenterLoss(4, D).double()
    loss.centers.embeddings.copy_(points(4, 3))
    x, labels = points(6, 1), [0, 3, 3, -1, 1, 0]
    value = loss(x, labels)
    assert not list(loss.parameters())
    assert list(loss.state_dict()) == ["centers.embeddings"]
    for references in (loss.centers, loss.centers.references(), (loss.centers.embeddings, range(4))):
        torch.testing.assert_close(loss(x, labels, references), value, rtol=1e-12, atol=0)
    related = CenterLoss(centers=loss.centers, relation=lambda a, b: a.unsqueeze(1) == b)
    torch.testing.assert_close(related(x, labels), value, rtol=1e-12, atol=0)


def test_center_loss_computes_own_distances_only() -> None:
    """A million classes cost nothing."""
    loss = CenterLoss(1_000_000, 2, memory_budget=8 * 2**20)
    x = torch.ones(64, 2, requires_grad=True)
    loss(x, torch.arange(64) * 10_000).backward()
    torch.testing.assert_close(x.grad, torch.ones(64, 2) / 64)


def test_center_loss_on_an_own_center_is_exactly_zero() -> None:
    loss = CenterLoss(2, D)
    x = torch.zeros(2, D, requires_grad=True)
    value = loss(x, [0, 1])
    assert value.item() == 0
    assert not torch.autograd.grad(value, x)[0].any()


def test_learned_centers_by_proxies() -> None:
    proxies = Proxies(3, D).double()
    x = points(5, 1)
    value = CenterLoss(proxies=proxies)(x, [0, 1, 1, 2, 0])
    gradient = torch.autograd.grad(value, proxies.weight)[0]
    torch.testing.assert_close(gradient[2], (proxies.weight[2] - x[3]).detach() / 5, rtol=1e-12, atol=0)


def test_center_loss_wants_one_source_of_centers() -> None:
    for options in ({"centers": Centers(2, 2), "num_classes": 2, "embedding_dim": 2}, {"centers": Centers(2, 2), "proxies": Proxies(2, 2)}):
        with pytest.raises(ValueError, match="one of"):
            CenterLoss(**options)
    with pytest.raises(ValueError, match="together"):
        CenterLoss(num_classes=3)
    with pytest.raises(TypeError, match="centers"):
        CenterLoss(centers=Proxies(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels"):
        CenterLoss(2, 2)(torch.eye(2), [0, 2])
    with pytest.raises(ValueError, match="dimension"):
        CenterLoss(2, 2)(torch.eye(3), [0, 1, 1])


# ---- magnet


def magnet_spec(x: list[list[float]], own: list[int], centers: list[list[float]], classes: list[int], margin: float) -> list[float]:
    """Equations 4 and 5: `own` is the cluster of each embedding, `classes` the class of each cluster."""
    near = [d2(row, centers[c]) for row, c in zip(x, own, strict=True)]
    variance = math.fsum(near) / (len(x) - 1)
    result = []
    for row, c, d in zip(x, own, near, strict=True):
        others = sum(math.exp(-d2(row, m) / (2 * variance)) for m, k in zip(centers, classes, strict=True) if k != classes[c])
        result.append(max(0.0, margin + d / (2 * variance) + math.log(others)))
    return result


CLASSES, CLUSTERS = [0, 0, 1, 1, 2], [0, 1, 2, 3, 4]  # class of each cluster
OWN = [0, 3, 1, 0, 2, 4, 3, 2, 1, 4, 0]
LABELS = torch.tensor([[CLASSES[c], c] for c in OWN])


def means(x: Tensor) -> list[list[float]]:
    return [x[[i for i, c in enumerate(OWN) if c == k]].mean(0).tolist() for k in CLUSTERS]


def test_magnet_loss_of_clusters() -> None:
    x = points(11, 1)
    expected = magnet_spec(x.tolist(), OWN, means(x), CLASSES, 1.0)
    got = MagnetLoss(margin=1.0, reduction="none")(x, LABELS)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_magnet_loss_has_the_gradient_of_its_means_and_variance() -> None:
    assert torch.autograd.gradcheck(lambda x: MagnetLoss(margin=4.0)(x, LABELS), points(11, 1).requires_grad_())


def test_magnet_loss_with_labels_that_are_classes() -> None:
    x = points(11, 1)
    both = torch.tensor([[c, c] for c in OWN])
    torch.testing.assert_close(MagnetLoss()(x, OWN), MagnetLoss()(x, both))
    far = torch.tensor([[10**12 + c, 7 * c] for c in OWN])
    torch.testing.assert_close(MagnetLoss()(x, far), MagnetLoss()(x, both))


def test_cluster_numbers_may_start_again_in_each_class() -> None:
    x = points(11, 1)
    again = torch.tensor([[CLASSES[c], [0, 1, 0, 1, 0][c]] for c in OWN])
    torch.testing.assert_close(MagnetLoss()(x, again), MagnetLoss()(x, LABELS))


def test_ignored_embeddings_are_absent() -> None:
    x = points(14, 1)
    labels = torch.cat([LABELS, torch.tensor([[-1, 2], [0, -1], [-1, -1]])])
    rows = torch.randperm(14, generator=torch.Generator().manual_seed(0))
    value = MagnetLoss(margin=4.0)(x[rows], labels[rows])
    torch.testing.assert_close(value, MagnetLoss(margin=4.0)(x[:11], LABELS), rtol=1e-10, atol=0)


def test_magnet_loss_against_centers_of_clusters() -> None:
    """With clusters for labels, with classes only (the nearest own cluster counts), and by a store."""
    x, centers = points(11, 1), points(5, 2)
    loss = MagnetLoss(margin=4.0, reduction="none")
    expected = magnet_spec(x.tolist(), OWN, centers.tolist(), CLASSES, 4.0)
    got = loss(x, LABELS, (centers, torch.tensor([[CLASSES[c], c] for c in CLUSTERS])))
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    classes = [CLASSES[c] for c in OWN]
    nearest = [
        min((k for k in CLUSTERS if CLASSES[k] == y), key=lambda k: d2(row, centers[k].tolist()))
        for row, y in zip(x.tolist(), classes, strict=True)
    ]
    expected = magnet_spec(x.tolist(), nearest, centers.tolist(), CLASSES, 4.0)
    for labels in (LABELS, classes):
        got = loss(x, labels, (centers, CLASSES))
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_magnet_function_leaves_rows_without_a_cluster_out_of_the_variance() -> None:
    s_n, s_p = (
        torch.tensor([[-3.0], [-4.0], [-5.0]]),
        Scores(torch.tensor([[-1.0], [-9.0], [-1.0]]), torch.tensor([[True], [False], [True]])),
    )
    assert F.magnet(s_n, s_p).tolist() == [0.5, 0.0, 0.0]
    assert F.magnet(torch.empty(2, 0), torch.tensor([[-1.0], [-1.0]])).tolist() == [0.0, 0.0]
    assert F.magnet(torch.tensor([[-1.0]]), torch.empty(1, 0)).tolist() == [0.0]


def test_collapsed_clusters_do_not_move() -> None:
    """All embeddings at their centres, up to rounding: no variance to measure with."""
    same = torch.full((6, 2), 0.1, dtype=torch.float64)
    apart = torch.tensor([[0.0, 0.0]] * 2 + [[9.0, 0.0]] * 2)
    for x, labels, expected in ((torch.zeros(4, 2), [0, 0, 1, 1], 1.0), (apart, [0, 0, 1, 1], 0.0), (same, [0, 0, 0, 1, 1, 1], 1.0)):
        leaf = x.clone().requires_grad_()
        value = MagnetLoss()(leaf, labels)
        assert value.item() == pytest.approx(expected, abs=0.1)
        assert not torch.autograd.grad(value, leaf)[0].any()


# ---- clusters


def blobs(classes: int = 3, clusters: int = 2, size: int = 10) -> tuple[Tensor, list[int], list[int]]:
    """Far apart, with the class and the blob of each point, in a shuffled order."""
    generator = torch.Generator().manual_seed(0)
    blob = torch.arange(classes * clusters).repeat_interleave(size)[torch.randperm(classes * clusters * size, generator=generator)]
    x = 100 * torch.stack([blob.float(), (blob % 3).float()], dim=1) + torch.randn(len(blob), 2, generator=generator)
    return x, (blob // clusters).tolist(), blob.tolist()


def test_index_finds_blobs() -> None:
    x, labels, blob = blobs()
    index = ClusterIndex(labels, 2, per_class=2)
    index.update(x)
    pairs = set(zip(index.assignments.tolist(), blob, strict=True))
    assert len(pairs) == 6
    assert index.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for cluster, b in pairs:
        members = x[[i for i, k in enumerate(blob) if k == b]]
        torch.testing.assert_close(index.embeddings[cluster], members.mean(0))
    both = index.labels_of(range(60))
    assert both[:, 0].tolist() == labels
    assert torch.equal(both[:, 1], index.assignments)


def test_index_of_small_and_unlabelled_classes() -> None:
    """Fewer samples than clusters, equal samples, labels of any size, samples of no class."""
    labels = [10**12, -1, 5, 5, 10**12, 5, 5, -3, 7]
    index = ClusterIndex(labels, 1, per_class=3)
    assert len(index) == 3 + 1 + 2
    assert index.labels.tolist() == [5, 5, 5, 7, 10**12, 10**12]
    assert index.labels_of([0, 1]).tolist() == [[-1, -1], [-1, -1]]
    index.update(torch.tensor([[1.0], [50.0], [2.0], [2.0], [3.0], [2.0], [2.0], [60.0], [4.0]]))
    assert index.assignments[[1, 7]].tolist() == [-1, -1]
    assert index.labels_of([8, 1]).tolist() == [[7, 3], [-1, -1]]
    assert bool(index.embeddings.isfinite().all())
    used = index.assignments[index.assignments >= 0].unique()
    assert index.filled.nonzero().flatten().tolist() == used.tolist()
    references = index.references()
    assert bool((references.labels[~index.filled] == -1).all())
    assert torch.equal(references.embeddings[index.assignments[2]], torch.tensor([2.0]))


def test_index_remembers_losses() -> None:
    index = ClusterIndex([0, 0, 1, 1, -1], 1, per_class=1)
    index.update(torch.arange(5.0).unsqueeze(1))
    assert index.cluster_losses().tolist() == [1, 1]
    index.record([0, 3, 3], torch.tensor([5.0, 2.0, 4.0], requires_grad=True))
    assert index.losses.tolist() == [5, 1, 1, 3, 1]
    assert index.cluster_losses().tolist() == [3, 2]
    other = ClusterIndex([0, 0, 1, 1, -1], 1, per_class=1)
    other.load_state_dict(index.state_dict())
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in index.state_dict().items())
    assert set(index.state_dict()) == {"embeddings", "labels", "filled", "assignments", "losses"}


def test_index_is_reproducible() -> None:
    x, labels, _ = blobs()
    one, two = (ClusterIndex(labels, 2, per_class=3, seed=4) for _ in range(2))
    one.update(x)
    two.update(x.double())
    assert torch.equal(one.assignments, two.assignments)


def test_index_rejects_what_makes_no_sense() -> None:
    index = ClusterIndex([0, 1, 1], 2)
    with pytest.raises(ValueError, match="all 3 samples"):
        index.update(torch.ones(2, 2))
    with pytest.raises(ValueError, match="finite"):
        index.update(torch.full((3, 2), math.inf))
    assert not index.filled.any()
    for ids in ([3], [-1]):
        with pytest.raises(IndexError, match="ids"):
            index.labels_of(ids)
    with pytest.raises(ValueError, match="losses"):
        index.record([0, 1], torch.ones(3))
    with pytest.raises(ValueError, match="labels"):
        ClusterIndex([-1, -1], 2)
    with pytest.raises(ValueError, match="per_class"):
        ClusterIndex([0, 1], 2, per_class=0)


# ---- batches of clusters


def sampler_of(**options: Any) -> tuple[MagnetSampler, ClusterIndex, list[int]]:
    x, labels, _ = blobs()
    index = ClusterIndex(labels, 2, per_class=2)
    index.update(x)
    return MagnetSampler(index, **{"clusters_per_batch": 3, "samples_per_cluster": 4, **options}), index, labels


def test_batches_are_clusters_and_their_nearest_impostors() -> None:
    sampler, index, _ = sampler_of(num_batches=20)
    for batch in sampler:
        clusters = index.assignments[torch.tensor(batch)].view(3, 4)
        assert bool((clusters == clusters[:, :1]).all())
        assert all(len(set(batch[4 * k : 4 * k + 4])) == 4 for k in range(3))
        first, *others = clusters[:, 0].tolist()
        distance = (index.embeddings - index.embeddings[first]).norm(dim=1)
        distance[index.labels == index.labels[first]] = math.inf
        assert others == distance.argsort()[:2].tolist()


def test_hard_clusters_come_first_as_often_as_their_loss_says() -> None:
    sampler, index, labels = sampler_of(num_batches=2000, samples_per_cluster=1, clusters_per_batch=2)
    losses = torch.rand(6, generator=torch.Generator().manual_seed(1))
    losses[2] = 0
    index.record(range(len(labels)), losses[index.assignments])
    first = np.bincount([int(index.assignments[batch[0]]) for batch in sampler], minlength=6) / 2000
    assert first[2] == 0
    np.testing.assert_allclose(first, (losses / losses.sum()).numpy(), atol=0.04)
    index.record(range(len(labels)), torch.zeros(len(labels)))
    assert len({int(index.assignments[batch[0]]) for batch in sampler}) == 6  # nothing is hard: all alike


def test_small_clusters_repeat_their_samples_evenly() -> None:
    index = ClusterIndex([0, 0, 1], 1, per_class=1)
    index.update(torch.tensor([[0.0], [0.1], [1.0]]))
    for batch in MagnetSampler(index, 2, 5, num_batches=5):
        counts = np.bincount(batch, minlength=3)
        assert counts[2] == 5
        assert sorted(counts[:2]) == [2, 3]


def test_sampler_resumes() -> None:
    sampler, index, _ = sampler_of(num_batches=4, seed=3)
    epochs = [list(sampler) for _ in range(3)]
    assert epochs[0] != epochs[1]
    assert len(sampler) == 4
    again = MagnetSampler(index, 3, 4, num_batches=4, seed=3)
    iterator = iter(again)
    assert [next(iterator), next(iterator)] == epochs[0][:2]
    state = copy.deepcopy(again.state_dict())
    assert state == {"epoch": 0, "batch": 2}
    resumed = MagnetSampler(index, 3, 4, num_batches=4, seed=3)
    resumed.load_state_dict(state)
    assert list(resumed) == epochs[0][2:]
    assert list(resumed) == epochs[1]
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    assert resumed.state_dict() == {"epoch": 3, "batch": 0}
    with pytest.raises(ValueError, match="batch"):
        resumed.load_state_dict({"epoch": 0, "batch": 5})


def test_sampler_rejects_what_makes_no_sense() -> None:
    index = ClusterIndex([0, 1], 2)
    with pytest.raises(RuntimeError, match="update"):
        next(iter(MagnetSampler(index)))
    with pytest.raises(TypeError, match="index"):
        MagnetSampler([0, 1])  # type: ignore[arg-type]
    for options in ({"clusters_per_batch": 1}, {"samples_per_cluster": 0}, {"num_batches": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MagnetSampler(index, **options)


def test_training_separates_the_clusters_of_each_class() -> None:
    """The whole method: index, sampler, loader, loss and its record. Each class has two clusters with the other class between them."""
    generator = torch.Generator().manual_seed(0)
    blob = torch.arange(4).repeat_interleave(24)
    data = torch.stack([2.0 * blob, torch.zeros(96)], dim=1) + torch.randn(96, 2, generator=generator)
    labels = blob % 2
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    index, loss = ClusterIndex(labels, 2, per_class=2), MagnetLoss(reduction="none")
    index.update(net(data))
    sampler = MagnetSampler(index, 4, 6, num_batches=8)

    def mean() -> float:
        return float(loss(net(data), index.labels_of(range(96))).mean().detach())

    before = mean()
    for _ in range(20):
        for ids in DataLoader(range(96), batch_sampler=sampler):
            losses = loss(net(data[ids]), index.labels_of(ids))
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            index.record(ids, losses)
        index.update(net(data))
    assert mean() < 0.6 * before
