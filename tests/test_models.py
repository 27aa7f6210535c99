"""Models: features of images, and embeddings of features."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from metriczoo.models import ConvNet, EmbeddingHead


def features(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@given(height=st.integers(8, 40), width=st.integers(8, 40), channels=st.integers(1, 3), grid=st.integers(1, 4), n=st.integers(2, 3))
def test_convnet_takes_images_of_any_size(height, width, channels, grid, n):
    net = ConvNet(channels, (4, 6, 5), grid=grid)
    images = torch.rand(n, channels, height, width, requires_grad=True)
    out = net(images)
    assert out.shape == (n, net.num_features) == (n, 5 * grid**2)
    out.square().sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_convnet_brings_features_to_mean_0_and_variance_1():
    torch.manual_seed(0)
    out = ConvNet(1)(torch.rand(64, 1, 28, 28))
    torch.testing.assert_close(out.mean(0), torch.zeros(1152), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(1152), atol=2e-2, rtol=0)


def test_convnet_in_evaluation_sees_each_image_alone():
    torch.manual_seed(0)
    net = ConvNet(1, (4, 8))
    net(torch.rand(16, 1, 20, 20))
    net.eval()
    images = torch.rand(5, 1, 20, 20)
    torch.testing.assert_close(net(images)[2:3], net(images[2:3]))


def test_convnet_cells_of_the_grid_are_averages():
    torch.manual_seed(0)
    net = ConvNet(1, (4,), grid=2).eval()
    images = torch.rand(3, 1, 12, 8)
    cells = net.blocks(images)  # [3, 4, 6, 4]
    average = torch.stack([cells[:, :, i : i + 3, j : j + 2].mean((2, 3)) for i in (0, 3) for j in (0, 2)], dim=2).flatten(1)
    torch.testing.assert_close(net(images), net.standardize(average))


def test_convnet_state_dict_carries_everything():
    torch.manual_seed(0)
    one, other = ConvNet(1, (4, 8)), ConvNet(1, (4, 8))
    one(torch.rand(16, 1, 20, 20))
    other.load_state_dict(one.state_dict())
    images = torch.rand(4, 1, 20, 20)
    assert torch.equal(one.eval()(images), other.eval()(images))


@pytest.mark.parametrize("shape", [(2, 1, 28), (2, 3, 28, 28), (2, 1, 7, 28), (2, 1, 28, 7)])
def test_convnet_rejects_images_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="Expected `images`"):
        ConvNet(1)(torch.rand(shape))


@pytest.mark.parametrize(
    ("error", "arguments"), [(ValueError, {"widths": ()}), (ValueError, {"grid": 0}), (TypeError, {"in_channels": 1.5})]
)
def test_convnet_rejects_wrong_arguments(error, arguments):
    with pytest.raises(error, match="Expected `"):
        ConvNet(**arguments)


@given(n=st.integers(1, 5), d=st.integers(1, 6), dim=st.integers(1, 6), seed=st.integers(0, 99), features_too=st.booleans())
def test_embeddings_are_of_unit_length(n, d, dim, seed, features_too):
    head = EmbeddingHead(d, dim, normalize_features=features_too)
    torch.testing.assert_close(head(features(n, d, seed)).norm(dim=1), torch.ones(n))


@given(scale=st.floats(1e-3, 1e3))
def test_length_of_normalized_features_does_not_matter(scale):
    x, head = features(4, 6), EmbeddingHead(6, 3, normalize_features=True)
    torch.testing.assert_close(head(scale * x), head(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("features_too", [False, True])
def test_zero_vectors_have_finite_gradients(features_too):
    head = EmbeddingHead(3, 2, normalize_features=features_too)
    torch.nn.init.zeros_(head.linear.bias)
    x = torch.zeros(2, 3, requires_grad=True)
    out = head(x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(2, 2))
    assert x.grad is not None
    assert x.grad.isfinite().all()


@given(n=st.integers(9, 30), d=st.integers(2, 8), data=st.data())
def test_start_from_pca_is_that_of_scikit_learn(n, d, data):
    dim = data.draw(st.integers(1, d))
    x = features(n, d, data.draw(st.integers(0, 99))) * torch.arange(1, d + 1) + 3
    head = EmbeddingHead(d, dim, normalize=False)
    head.start_from_pca(x)
    expected = torch.from_numpy(PCA(dim, svd_solver="full").fit_transform(x.double().numpy()))
    found = head(x).double()
    signs = (found * expected).sum(0).sign()
    torch.testing.assert_close(found, expected * signs, atol=1e-3, rtol=1e-3)


def test_start_from_pca_with_all_components_keeps_distances():
    x = features(20, 5)
    head = EmbeddingHead(5, 5, normalize=False)
    head.start_from_pca(x)
    torch.testing.assert_close(torch.pdist(head(x)), torch.pdist(x))
    torch.testing.assert_close(head(x).mean(0), torch.zeros(5), atol=1e-5, rtol=0)


def test_start_from_pca_of_fewer_points_than_components_is_still_orthonormal():
    head = EmbeddingHead(6, 6)
    head.start_from_pca(features(2, 6))
    torch.testing.assert_close(head.linear.weight @ head.linear.weight.T, torch.eye(6))


@pytest.mark.parametrize("points", [1, 4])
def test_start_from_pca_of_fewer_points_than_components_is_not_left_to_rounding(points):
    x = features(points, 40)
    one, other = EmbeddingHead(40, 30), EmbeddingHead(40, 30)
    one.start_from_pca(x)
    other.start_from_pca(x.double() * (1 + 1e-12 * features(points, 40).double()))
    torch.testing.assert_close(one.linear.weight, other.linear.weight)
    torch.testing.assert_close(one.linear.weight @ one.linear.weight.T, torch.eye(30))
    some = EmbeddingHead(40, 10)
    some.start_from_pca(x)
    torch.testing.assert_close(some.linear.weight, one.linear.weight[:10])


def test_start_from_pca_does_not_depend_on_the_order_of_points():
    x = features(30, 6)
    one, other = EmbeddingHead(6, 3), EmbeddingHead(6, 3)
    one.start_from_pca(x)
    other.start_from_pca(x.flip(0))
    torch.testing.assert_close(one.linear.weight, other.linear.weight)


def test_start_from_pca_of_normalized_features():
    x = features(30, 6)
    one, other = EmbeddingHead(6, 3, normalize_features=True), EmbeddingHead(6, 3)
    one.start_from_pca(x)
    unit = x / x.norm(dim=1, keepdim=True)
    other.start_from_pca(unit)
    torch.testing.assert_close(one(x), other(unit))


@pytest.mark.parametrize(
    ("dim", "given_features", "message"),
    [
        (7, features(9, 6), "Expected `embedding_dim` to be at most 6"),
        (3, features(9, 5), r"Expected `features` to be of shape \[n, 6\]"),
        (3, features(0, 6), r"Expected `features` to be of shape \[n, 6\]"),
        (3, torch.full((2, 6), torch.nan), "Expected `features` to be finite"),
    ],
)
def test_start_from_pca_rejects(dim, given_features, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingHead(6, dim).start_from_pca(given_features)
