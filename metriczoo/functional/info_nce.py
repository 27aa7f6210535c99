"""Contrastive losses by softmax: each positive among the negatives, or among all others."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo._checks import check_choice
from metriczoo.functional._folds import pair_terms
from metriczoo.functional._share import log_share, pair_shares
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["SUPCON_FORMS", "decoupled_contrastive", "nt_xent", "supcon", "weighted_decoupled_contrastive"]

SUPCON_FORMS = ("out", "in")


def nt_xent(s_n: Tensor | Scores, s_p: Tensor | Scores, *, temperature: float | Tensor = 0.1) -> Terms:
    r"""Normalised temperature-scaled cross-entropy (NT-Xent), also known as InfoNCE: each positive is to be told from all negatives.

    .. math:: L_i = -\log \frac{e^{s_p^i / \tau}}{e^{s_p^i / \tau} + \sum_j e^{s_n^j / \tau}}
                  = \operatorname{softplus}\bigl(\operatorname{LSE}_j(s_n^j / \tau) - s_p^i / \tau\bigr)

    One term per positive: the other positives of the anchor are not in its denominator.

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        temperature: :math:`\tau > 0`. SimCLR's code has 0.1, its paper 0.5 for small images; MoCo and CLIP start from 0.07.

    Returns:
        `Terms` over pairs (anchor, positive). Anchors without negatives have none.

    Example:
        >>> import torch
        >>> nt_xent(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), temperature=1.0).total
        tensor([0.6657])

    Relations:
        `unified` with one positive, margin 0 and scale :math:`1/\tau`. `supcon` keeps the other positives in the denominator, and
        `decoupled_contrastive` removes the positive itself from it. With inner products and temperature 1 it is `n_pairs`.

    References:
        Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual Representations. ICML 2020, equation 1.
        van den Oord, Li, Vinyals. Representation Learning with Contrastive Predictive Coding. 2018, equation 4.
    """
    return pair_shares(as_scores(s_n), as_scores(s_p), 1 / temperature)


def supcon(s_n: Tensor | Scores, s_p: Tensor | Scores, *, temperature: float | Tensor = 0.1, form: str = "out") -> Tensor:
    r"""Supervised contrastive loss: positives are to be told from all others, the other positives among them.

    .. math::
        L_{out} = \frac1K \sum_{i=1}^K \Bigl(\operatorname{LSE}_{a \in P \cup N}\frac{s_a}\tau - \frac{s_p^i}\tau\Bigr), \qquad
        L_{in} = \operatorname{LSE}_{a \in P \cup N}\frac{s_a}\tau - \operatorname{LSE}_i \frac{s_p^i}\tau + \log K

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class; K of them.
        temperature: :math:`\tau > 0`; 0.1 in the paper, 0.07 in its code.
        form: `"out"`, the mean over positives outside of the logarithm, or `"in"`.

    Returns:
        `[b]`, at least :math:`\log K`; 0 where there is no positive. Negatives may be missing: the positives then compete.

    Example:
        >>> import torch
        >>> s_n, s_p = torch.tensor([[0.2]]), torch.tensor([[0.9, 0.1]])
        >>> supcon(s_n, s_p, temperature=1.0), supcon(s_n, s_p, temperature=1.0, form="in")
        (tensor([1.0657]), tensor([0.9878]))

    Relations:
        Both forms are `nt_xent` where K = 1; else out >= in. In the form out, a positive that takes more than 1/K of the softmax is
        pushed away. `nca` is the form in on squared distances, without :math:`\log K`. The authors' code multiplies by
        :math:`\tau / 0.07` and also divides by anchors without positives, whose loss is 0.

    References:
        Khosla et al. Supervised Contrastive Learning. NeurIPS 2020, equations 2 and 3.
    """
    inside = check_choice("form", form, SUPCON_FORMS) == "in"
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    loss = log_share(s_n, s_p, 1 / temperature, apart=not inside)
    return loss + s_p.count().clamp(min=1).to(loss.dtype).log() if inside else loss


def decoupled_contrastive(s_n: Tensor | Scores, s_p: Tensor | Scores, *, temperature: float | Tensor = 0.1) -> Terms:
    r"""Decoupled contrastive loss: NT-Xent without the positive in its denominator, so that the pull never fades.

    .. math:: L_i = -\frac{s_p^i}\tau + \operatorname{LSE}_j \frac{s_n^j}\tau

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        temperature: :math:`\tau > 0`; 0.1 in the paper.

    Returns:
        `Terms` over pairs (anchor, positive), of either sign. Anchors without negatives have none.

    Example:
        >>> import torch
        >>> decoupled_contrastive(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), temperature=1.0).total
        tensor([-0.0556])

    Relations:
        `nt_xent` is the softplus of it: there the gradient shrinks once a positive wins, here it is :math:`-1 / \tau` throughout.

    References:
        Yeh, Hong, Hsu, Liu, Chen, LeCun. Decoupled Contrastive Learning. ECCV 2022.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    push = s_n.logsumexp(1 / temperature).unsqueeze(1)
    return pair_terms(s_p.map(lambda s: push - s / temperature), s_n)


def weighted_decoupled_contrastive(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    temperature: float | Tensor = 0.1,
    weight_temperature: float | Tensor = 0.5,
    log_sums: Tensor | None = None,
) -> Terms:
    r"""Decoupled contrastive loss with weighted positives (DCLW): the farther a positive, beside all pairs given, the stronger its pull.

    .. math:: L_i = -w_i \frac{s_p^i}\tau + \operatorname{LSE}_j \frac{s_n^j}\tau, \qquad
              w_i = 2 - \frac{e^{s_p^i / \sigma}}{\operatorname{mean}_{k} e^{s_p^k / \sigma}}

    The mean is over all pairs of all anchors: this loss couples anchors.

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        temperature: :math:`\tau > 0`; 0.1 in the paper.
        weight_temperature: :math:`\sigma > 0`; 0.5 in the paper.
        log_sums: `[2]`, logarithms of :math:`\sum_k e^{s_p^k / \sigma}` and of the number of pairs k, where these anchors are a part of a
            batch. Default: of these.

    Returns:
        `Terms` over pairs (anchor, positive), of either sign. Anchors without negatives have none.

    Example:
        >>> import torch
        >>> weighted_decoupled_contrastive(torch.tensor([[0.2], [0.1]]), torch.tensor([[0.9], [0.5]]), temperature=1.0).total
        tensor([-0.3580, -0.5900])

    Relations:
        The weights of a batch have mean 1; as :math:`\sigma` grows they all tend to 1, and this to `decoupled_contrastive`. As in the
        authors' code they are part of the gradient, so that a near positive may be pushed away.

    References:
        Yeh, Hong, Hsu, Liu, Chen, LeCun. Decoupled Contrastive Learning. ECCV 2022.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    push = s_n.logsumexp(1 / temperature).unsqueeze(1)
    pairs = s_p.where((s_n.count() > 0).unsqueeze(1))
    if log_sums is None:
        log_sums = pooled_weights(weights_of_positives(s_n, s_p, weight_temperature))
    log_sum, log_count = log_sums.unbind()

    def weight(s: Tensor) -> Tensor:
        # No pair exceeds the sum over all. The bound is for cells outside of the set, whose exponential could overflow.
        return 2 - (s / weight_temperature - log_sum + log_count).clamp(max=log_count + 1).exp()

    return pair_terms(pairs.map(lambda s: push - weight(s) * s / temperature), s_n)


def weights_of_positives(s_n: Scores, s_p: Scores, weight_temperature: float | Tensor) -> Tensor:
    """`[b, 2]`: log-sum-exp and number of the positives of each anchor that has negatives; for `pooled_weights`."""
    pairs = s_p.where((s_n.count() > 0).unsqueeze(1))
    log_sum = pairs.map(lambda s: s / weight_temperature).logsumexp()
    return torch.stack([log_sum, pairs.count().to(log_sum.dtype)], dim=1)


def pooled_weights(rows: Tensor) -> Tensor:
    """`[2]`: what `weighted_decoupled_contrastive` takes for `log_sums`, from `weights_of_positives` of all anchors."""
    log_sum, count = rows.unbind(1)
    return torch.stack([Scores(log_sum.unsqueeze(0)).logsumexp().squeeze(0), count.detach().sum().clamp(min=1).log()])
