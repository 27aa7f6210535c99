"""`TwoHead`, and the feature map that `ConvNet` gives it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metriczoo.losses import TripletMarginLoss
from metriczoo.models import ConvNet, TwoHead


class Maps(nn.Module):
    """A backbone that passes on what it is given."""

    def forward(self, images):
        return images


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(n=st.integers(1, 4), c=st.integers(1, 5), h=st.integers(1, 4), w=st.integers(1, 4), dim=st.integers(1, 6), lazy=st.booleans())
def test_heads_are_a_linear_map_of_the_average_and_one_of_the_whole_map(n, c, h, w, dim, lazy):
    x = maps(n, c, h, w)
    net = TwoHead(Maps(), 3, dim, example=None if lazy else x[:1])
    logits, embeddings, features = net(x)
    assert [tuple(p.shape) for p in net.parameters()] == [(3, c), (3,), (dim, c * h * w), (dim,)]
    for i in range(n):
        means = [sum(x[i, k, r, s].item() for r in range(h) for s in range(w)) / (h * w) for k in range(c)]
        flat = [x[i, k, r, s].item() for k in range(c) for r in range(h) for s in range(w)]
        raw = [sum(a * b for a, b in zip(row, flat, strict=True)) for row in net.embedder.weight.tolist()]  # the bias is 0 at the start
        length = math.sqrt(sum(value * value for value in raw))
        scores = [
            sum(a * b for a, b in zip(row, means, strict=True)) + bias
            for row, bias in zip(net.classifier.weight.tolist(), net.classifier.bias.tolist(), strict=True)
        ]
        torch.testing.assert_close(features[i], torch.tensor(means), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits[i], torch.tensor(scores), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(embeddings[i], torch.tensor([value / length for value in raw]), atol=1e-5, rtol=1e-3)


def test_embeddings_tell_positions_apart_and_logits_do_not():
    x = maps(2, 3, 4, 4)
    net = TwoHead(Maps(), 5, 8, example=x)
    one, other = net(x), net(x.flip(3))
    torch.testing.assert_close(one.logits, other.logits)
    assert (one.embeddings - other.embeddings).abs().max() > 0.1


def test_each_head_alone_is_what_both_give():
    x = torch.rand(3, 1, 16, 16)
    net = TwoHead(ConvNet(1, (4, 6), grid=None), 5, 7, example=x).eval()
    both = net(x)
    assert torch.equal(net.classify(x), both.logits)
    assert torch.equal(net.embed(x), both.embeddings)
    assert torch.equal(net.classifier(both.features), both.logits)


def test_without_a_ranking_loss_it_is_the_plain_classifier():
    """A second head that no loss looks at changes nothing of a training step."""
    torch.manual_seed(0)
    x, labels = torch.rand(6, 1, 16, 16), torch.tensor([0, 0, 1, 1, 2, 2])
    one = TwoHead(ConvNet(1, (4, 6), grid=None), 3, 5, example=x)
    other = copy.deepcopy(one)
    nn.functional.cross_entropy(one.classify(x), labels).backward()
    nn.functional.cross_entropy(other(x).logits, labels).backward()
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        if name.startswith("embedder"):
            assert a.grad is None and b.grad is None
        else:
            assert torch.equal(a.grad, b.grad)


def test_a_ranking_loss_reaches_the_backbone_and_not_the_classifier():
    torch.manual_seed(0)
    net = TwoHead(ConvNet(1, (4, 6), grid=None), 3, 5, example=torch.rand(1, 1, 16, 16))
    TripletMarginLoss(margin=2.0)(net(torch.rand(6, 1, 16, 16)).embeddings, [0, 0, 1, 1, 2, 2]).backward()
    assert all(p.grad is None for p in net.classifier.parameters())
    assert all(p.grad.abs().sum() > 0 for p in net.backbone.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_an_example_changes_nothing_of_the_backbone(training):
    backbone = ConvNet(1, (4, 6), grid=None)
    backbone.blocks[0].eval()
    backbone.blocks[1].train(training)
    before = copy.deepcopy(backbone.state_dict())
    TwoHead(backbone, 3, example=torch.rand(1, 1, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert [module.training for module in backbone.blocks] == [False, training]
    assert backbone.training


def test_second_head_starts_from_xavier():
    """Uniform between plus and minus sqrt(6 / (inputs + outputs)), as in the code of the paper, and from no bias."""
    torch.manual_seed(0)
    net = TwoHead(Maps(), 3, 256, example=torch.rand(1, 32, 4, 4))
    bound = math.sqrt(6 / (32 * 16 + 256))
    weight = net.embedder.weight
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not net.embedder.bias.any()


def test_from_the_same_seed_lazy_or_not_the_heads_are_the_same():
    x = torch.rand(2, 3, 4, 4)
    heads = []
    for example in (None, x):
        torch.manual_seed(3)
        net = TwoHead(Maps(), 3, 5, example=example)
        net(x)
        heads.append(net.state_dict())
    assert all(torch.equal(value, heads[1][name]) for name, value in heads[0].items())


def test_heads_take_the_dtype_of_the_map():
    net = TwoHead(Maps(), 3, 5, example=torch.rand(1, 2, 3, 3, dtype=torch.float64))
    assert {p.dtype for p in net.parameters()} == {torch.float64}


@pytest.mark.parametrize("sized", [True, False])
def test_state_dict_carries_everything_into_a_new_network(sized):
    x = torch.rand(4, 1, 16, 16)
    one = TwoHead(ConvNet(1, (4, 6), grid=None), 3, 5, example=x)
    other = TwoHead(ConvNet(1, (4, 6), grid=None), 3, 5, example=x if sized else None)
    other.load_state_dict(one.state_dict())
    assert other.map_shape == (6, 4, 4)
    for a, b in zip(one.eval()(x), other.eval()(x), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="one size"):
        other(torch.rand(4, 1, 20, 20))


def test_zero_maps_have_finite_gradients():
    x = torch.zeros(2, 3, 2, 2, requires_grad=True)
    out = TwoHead(Maps(), 3, 4, example=x)(x)
    assert not out.embeddings.any()
    (out.embeddings.sum() + out.logits.sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_an_empty_batch_has_no_rows():
    net = TwoHead(Maps(), 3, 4, example=torch.rand(1, 3, 2, 2))
    assert [tuple(part.shape) for part in net(torch.rand(0, 3, 2, 2))[:2]] == [(0, 3), (0, 4)]


def test_compiles_to_the_same():
    net = TwoHead(Maps(), 3, 4, example=torch.rand(1, 3, 2, 2))
    x = torch.rand(4, 3, 2, 2)
    found = torch.compile(net, backend="eager", fullgraph=True)(x)
    assert all(torch.equal(a, b) for a, b in zip(found, net(x), strict=True))


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (torch.rand(2, 8), ValueError, "cut before its pooling"),
        (torch.rand(2, 8, 5), ValueError, r"feature map of shape \[n, c, h, w\]"),
        (torch.rand(2, 8, 0, 3), ValueError, "images large enough"),
        ((torch.rand(2, 8, 2, 2),), TypeError, "give a tensor"),
    ],
)
def test_a_backbone_without_a_feature_map_is_an_error(output, error, message):
    class Backbone(nn.Module):
        def forward(self, images):
            return output

    with pytest.raises(error, match=message):
        TwoHead(Backbone(), 3, example=torch.rand(2, 3, 8, 8))
    with pytest.raises(error, match=message):
        TwoHead(Backbone(), 3)(torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("shape", [(3, 2, 8), (3, 8, 2), (4, 4, 4), (3, 4, 5)])
def test_maps_of_another_size_are_an_error_even_where_they_are_as_long(shape):
    net = TwoHead(Maps(), 3, example=torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"shape \[n, 3, 4, 4\].*images must be of one size"):
        net(torch.rand(2, *shape))


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (TypeError, {"backbone": len}, "`backbone` to be a torch.nn.Module"),
        (ValueError, {"num_classes": 0}, "`num_classes`"),
        (ValueError, {"embedding_dim": 0}, "`embedding_dim`"),
        (TypeError, {"embeding_dim": 2}, "Did you mean 'embedding_dim'"),
    ],
)
def test_wrong_arguments_are_errors(error, arguments, message):
    with pytest.raises(error, match=message):
        TwoHead(**{"backbone": Maps(), "num_classes": 3, **arguments})


@given(height=st.integers(8, 33), width=st.integers(8, 33))
def test_convnet_without_a_grid_gives_its_map_standardized_per_channel(height, width):
    net = ConvNet(1, (4, 6, 5), grid=None)
    images = torch.rand(3, 1, height, width)
    out = net(images)
    assert out.shape == (3, net.num_features, height // 8, width // 8)
    values = out.transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(5), atol=1e-4, rtol=0)
    assert (values.var(1, unbiased=False) < 1.001).all()
    net.eval()
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]))
