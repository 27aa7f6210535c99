"""From features to embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit

from metriczoo._checks import check_count, check_embeddings, check_finite, check_flag, suggest_keywords

__all__ = ["EmbeddingHead"]


@suggest_keywords
class EmbeddingHead(nn.Module):
    r"""A linear map from features to embeddings on the unit sphere.

    .. math:: e = \frac{W f + b}{\|W f + b\|}, \qquad f = x \;\text{or}\; x / \|x\|

    Args:
        in_features: dimension of the features, >= 1.
        embedding_dim: dimension of the embeddings, >= 1.
        normalize_features: whether features are brought to unit length first, as suits those of a pretrained network.
        normalize: whether embeddings are of unit length. A vector of length 0 stays one.

    Attributes:
        linear: W and b.

    Example:
        >>> head = EmbeddingHead(3, 1, normalize=False)
        >>> features = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 5.0], [0.0, 0.0, 3.0]])
        >>> head.start_from_pca(features)
        >>> head(features).flatten().tolist()
        [-2.0, 2.0, 0.0]

    Relations:
        The losses of the library work with any module that gives `[n, d]`; those on cosines do not mind the length of embeddings.
    """

    def __init__(self, in_features: int, embedding_dim: int, *, normalize_features: bool = False, normalize: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(check_count("in_features", in_features), check_count("embedding_dim", embedding_dim))
        self.normalize_features = check_flag("normalize_features", normalize_features)
        self.normalize = check_flag("normalize", normalize)

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings `[n, embedding_dim]` of features `[n, in_features]`."""
        embeddings: Tensor = self.linear(unit(features, dim=1) if self.normalize_features else features)
        return unit(embeddings, dim=1) if self.normalize else embeddings

    @torch.no_grad()
    def start_from_pca(self, features: Tensor) -> None:
        """Make the map the projection on the principal components of `features`: for a pretrained network a better start than chance.

        The components are exact, ordered by falling variance, and each has its largest entry positive: the data alone decide. Where fewer
        have a variance, as of fewer points than components, directions follow that are drawn once and for all, orthogonal to these.

        Args:
            features: `[n, in_features]`, n >= 1, of the training data.

        Raises:
            ValueError: if `features` do not fit, hold NaN or infinity, or `embedding_dim` is more than `in_features`.
        """
        features = check_embeddings("features", features)
        check_finite("features", features)
        rows, columns = self.linear.weight.shape
        if rows > columns:
            raise ValueError(f"Expected `embedding_dim` to be at most {columns}, as many components as features have, but got {rows}.")
        if features.shape[1] != columns or not len(features):
            raise ValueError(f"Expected `features` to be of shape [n, {columns}] with n >= 1, but got {list(features.shape)}.")
        features = features.double()
        if self.normalize_features:
            features = unit(features, dim=1)
        mean = features.mean(0)
        centered = features - mean
        components = _components(centered, rows)
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        components = components * largest.sign()
        self.linear.weight.copy_(components)
        self.linear.bias.copy_(-components @ mean)


def _components(centered: Tensor, count: int) -> Tensor:
    """Orthonormal directions `[count, d]` of the largest variance of points `[n, d]`."""
    variances, vectors = torch.linalg.eigh(centered.T @ centered)  # by rising variance
    d = len(variances)
    floor = variances[-1] * max(centered.shape) * torch.finfo(centered.dtype).eps
    found: Tensor = vectors.flip(1)[:, : min(count, int((variances > floor).sum()))].T
    if len(found) == count:
        return found
    # Of the directions that are left eigh gives any, which rounding decides.
    drawn = torch.randn(d, d, dtype=centered.dtype, generator=torch.Generator().manual_seed(0)).to(centered.device)[: count - len(found)]
    rest = torch.linalg.qr((drawn - drawn @ found.T @ found).T).Q.T
    return torch.cat([found, rest])
