"""Every loss of the library that can train an encoder on labelled images, with the values of its paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.presets.preset import Preset, Source
from metriczoo import losses
from metriczoo.losses import Annealing, Loss, SumLoss
from metriczoo.miners import Miner
from metriczoo.similarity import Cosine

__all__ = ["LEFT_OUT", "ZOO"]

# What is public in metriczoo.losses and has no preset.
LEFT_OUT: Mapping[str, str] = {
    **dict.fromkeys(("Call", "Tags"), "a record, no loss"),
    **dict.fromkeys(("FunctionLoss", "Loss", "from_function"), "makes losses of a user's own"),
    **dict.fromkeys(
        ("GradCache", "SumLoss"), "made of other losses: --chunk, and center, intra_pair_variance, threshold_consistent_margin"
    ),
    "Annealing": "a schedule: part of large_margin_softmax and sphere_face",
    "CosFaceLoss": "another name of am_softmax",
    "InfoNCELoss": "another name of nt_xent",
    "SymmetricLoss": "for two sides, such as images and texts; a batch that is compared with itself is symmetric already",
    **dict.fromkeys(("BarlowTwinsLoss", "VICRegLoss"), "see no labels, but two views of each image: methods of learning without classes"),
    "ProximalRegularizer": "a term beside nce, whose option `proximal` it is",
    "EmbeddingNormRegularizer": "a term beside n_pairs, whose option `norm_penalty` it is",
    "SparseCentersRegularizer": "a term beside soft_triple, whose option `regularization` it is",
    **dict.fromkeys(
        ("CenterInvariantRegularizer", "ProxyOrthogonalityRegularizer", "ZeroMeanRegularizer"),
        "a penalty beside a loss, which sees no classes",
    ),
}


def _contrastive(**options: Any) -> Loss:
    return losses.ContrastiveLoss(similarity=Cosine(), **options)


def _annealed(kind: Callable[..., Loss]) -> Callable[..., Loss]:
    return lambda **options: kind(annealing=Annealing(), **options)


def _center(num_classes: int, embedding_dim: int, *, weight: float, center_rate: float, miner: Miner | None) -> SumLoss:
    softmax = losses.SoftmaxLoss(num_classes, embedding_dim, miner=miner)
    return SumLoss([softmax, losses.CenterLoss(num_classes, embedding_dim, rate=center_rate)], [1.0, weight])


def _intra_pair_variance(*, margin: float, scale: float, deviation: float, weight: float, miner: Miner | None) -> SumLoss:
    tuplet = losses.TupletMarginLoss(margin, scale, miner=miner)
    return SumLoss([tuplet, losses.IntraPairVarianceLoss(deviation)], [1.0, weight])


def _threshold_consistent_margin(
    *, positive_margin: float, negative_margin: float, weight: float, miner: Miner | None, **options: Any
) -> SumLoss:
    term = losses.ThresholdConsistentMarginLoss(positive_margin, negative_margin)
    return SumLoss([losses.MultiSimilarityLoss(miner=miner, **options), term], [1.0, weight])


def _paper(text: str) -> Source:
    return Source("paper", text)


def _unread(text: str) -> Source:
    return Source("paper", f"{text}; not confirmed in code of the authors")


_TCM = {"positive_margin": 0.9, "negative_margin": 0.5, "weight": 1.0}
_TUPLET = {"margin": 0.1, "scale": 64.0, "deviation": 0.01, "weight": 0.5}
_WITH_PROXIES: dict[str, Any] = {"references": "proxies", "proxy_rate": 25.0}  # as quick as those of am_softmax, which was searched
_RAW: dict[str, Any] = {"length": 1.0}

ZOO: Mapping[str, Preset] = {
    # pairs and triplets
    "contrastive": Preset(
        _contrastive,
        {"positive_margin": 1.0, "negative_margin": 0.5},
        source=_paper("Wang, Zhang, Huang, Scott. Cross-Batch Memory for Embedding Learning. CVPR 2020: contrastive loss on cosines"),
    ),
    "triplet": Preset(
        losses.TripletMarginLoss, {"margin": 0.2}, miner="semi_hard", source=_paper("Schroff, Kalenichenko, Philbin. FaceNet. CVPR 2015")
    ),
    "circle": Preset(losses.CircleLoss, {"margin": 0.4, "scale": 80.0}, source=_unread("Sun et al. Circle Loss. CVPR 2020: retrieval")),
    "unified": Preset(losses.UnifiedLoss, {"margin": 0.25, "scale": 256.0}, source=_unread("Sun et al. Circle Loss. CVPR 2020, eq. 1")),
    "lmnn": Preset(
        losses.LMNNLoss, {"num_targets": 3, "margin": 1.0}, source=_paper("Weinberger, Saul. Distance Metric Learning for LMNN. JMLR 2009")
    ),
    "multi_similarity": Preset(losses.MultiSimilarityLoss, source=_paper("Wang et al. Multi-Similarity Loss. CVPR 2019")),
    "binomial_deviance": Preset(
        losses.BinomialDevianceLoss, source=_unread("Yi, Lei, Liao, Li. Deep Metric Learning for Person Re-Identification. ICPR 2014")
    ),
    "margin": Preset(
        losses.MarginLoss,
        {"margin": 0.2, "beta": 1.2},
        miner="distance_weighted",
        per_class=True,
        proxy_rate=10.0,
        source=Source("code", "Wu, Manmatha, Smola, Krähenbühl. Sampling Matters. ICCV 2017"),
    ),
    "ranked_list": Preset(losses.RankedListLoss, source=_paper("Wang et al. Ranked List Loss. CVPR 2019")),
    "lifted_structure": Preset(
        losses.LiftedStructureLoss, {"margin": 1.0}, source=Source("code", "Oh Song et al. Lifted Structured. CVPR 2016")
    ),
    "generalized_lifted_structure": Preset(
        losses.GeneralizedLiftedStructureLoss, {"margin": 1.0}, source=_paper("Hermans, Beyer, Leibe. In Defense of the Triplet Loss. 2017")
    ),
    "n_pairs": Preset(losses.NPairsLoss, {"norm_penalty": 0.005}, **_RAW, source=_paper("Sohn. Multi-class N-pair Loss. NIPS 2016")),
    "angular": Preset(losses.AngularLoss, {"angle": 45.0}, source=_unread("Wang et al. Angular Loss. ICCV 2017")),
    "tuplet_margin": Preset(losses.TupletMarginLoss, source=_unread("Yu, Tao. Tuplet Margin Loss. ICCV 2019")),
    "intra_pair_variance": Preset(
        _intra_pair_variance, _TUPLET, source=_unread("Yu, Tao. Tuplet Margin Loss. ICCV 2019: beside tuplet margin loss")
    ),
    "threshold_consistent_margin": Preset(
        _threshold_consistent_margin,
        _TCM,
        source=_unread("Zhang et al. Threshold-Consistent Margin Loss. ICLR 2024; beside multi-similarity loss, which is our choice"),
    ),
    "easy_positive": Preset(
        losses.EasyPositiveLoss, source=Source("code", "Xuan, Stylianou, Pless. Easy Positive Triplet Mining. WACV 2020")
    ),
    "dynamic_soft_margin": Preset(
        losses.DynamicSoftMarginLoss, source=_paper("Zhang, Rusinkiewicz. CDF-Based Dynamic Soft Margin. ICCV 2019")
    ),
    "sigmoid": Preset(losses.SigmoidLoss, source=_paper("Zhai et al. Sigmoid Loss for Language Image Pre-Training. ICCV 2023")),
    # sets
    "nca": Preset(losses.NCALoss, {"scale": 1.0}, **_RAW, source=_paper("Goldberger et al. Neighbourhood Components Analysis. NIPS 2004")),
    "soft_nearest_neighbor": Preset(
        losses.SoftNearestNeighborLoss,
        {"temperature": 1.0},
        **_RAW,
        source=_paper("Frosst, Papernot, Hinton. Soft Nearest Neighbor. ICML 2019"),
    ),
    "supcon": Preset(
        losses.SupConLoss,
        {"temperature": 0.1},
        source=_paper("Khosla et al. Supervised Contrastive Learning. NeurIPS 2020; 0.07 in the code"),
    ),
    "nt_xent": Preset(losses.NTXentLoss, {"temperature": 0.1}, source=_paper("Chen et al. SimCLR. ICML 2020")),
    "decoupled_contrastive": Preset(
        losses.DecoupledContrastiveLoss, {"temperature": 0.1}, source=_paper("Yeh et al. Decoupled Contrastive Learning. ECCV 2022")
    ),
    "weighted_decoupled_contrastive": Preset(
        losses.WeightedDecoupledContrastiveLoss, {"temperature": 0.1}, source=_paper("Yeh et al. Decoupled Contrastive Learning. ECCV 2022")
    ),
    "instance": Preset(losses.InstanceLoss, source=Source("code", "Zheng et al. Dual-Path Convolutional Image-Text Embeddings. TOMM 2020")),
    "histogram": Preset(losses.HistogramLoss, {"num_bins": 100}, source=_unread("Ustinova, Lempitsky. Histogram Loss. NIPS 2016")),
    "magnet": Preset(
        losses.MagnetLoss, **_RAW, source=_paper("Rippel et al. Magnet Loss. ICLR 2016; with one cluster per class, our choice")
    ),
    "mmc": Preset(losses.MMCLoss, **_RAW, source=_paper("Xing et al. Distance Metric Learning. NIPS 2002; on batches")),
    # ranking
    "fast_ap": Preset(losses.FastAPLoss, {"num_bins": 10}, source=Source("code", "Cakir et al. Deep Metric Learning to Rank. CVPR 2019")),
    "smooth_ap": Preset(losses.SmoothAPLoss, {"temperature": 0.01}, source=Source("code", "Brown et al. Smooth-AP. ECCV 2020")),
    "pnp": Preset(
        losses.PNPLoss,
        {"variant": "dq", "power": 4.0},
        source=Source("code", "Li et al. Rethinking the Optimization of Average Precision. AAAI 2022"),
    ),
    "recall_at_k": Preset(
        losses.RecallAtKLoss,
        source=Source("code", "Patel, Tolias, Matas. Recall@k Surrogate Loss. CVPR 2022; with ranks at temperature 1, which is k there"),
    ),
    # proxies
    "softmax": Preset(
        losses.SoftmaxLoss, **_WITH_PROXIES, **_RAW, source=Source("choice", "no hyper-parameters but the rate of the weights")
    ),
    "norm_face": Preset(losses.NormFaceLoss, {"scale": 30.0}, **_WITH_PROXIES, source=_unread("Wang et al. NormFace. ACM MM 2017")),
    "l2_softmax": Preset(
        losses.L2SoftmaxLoss, {"scale": 24.0}, **_WITH_PROXIES, source=_unread("Ranjan, Castillo, Chellappa. L2-constrained Softmax. 2017")
    ),
    "am_softmax": Preset(
        losses.AMSoftmaxLoss,
        {"margin": 0.35, "scale": 30.0},
        **_WITH_PROXIES,
        source=_paper("Wang et al. AM-Softmax. 2018; CosFace. CVPR 2018"),
    ),
    "arc_face": Preset(
        losses.ArcFaceLoss, {"margin": 0.5, "scale": 64.0}, **_WITH_PROXIES, source=_paper("Deng et al. ArcFace. CVPR 2019")
    ),
    "sub_center_arc_face": Preset(
        losses.SubCenterArcFaceLoss,
        {"margin": 0.5, "scale": 64.0},
        **_WITH_PROXIES,
        source=_paper("Deng et al. Sub-center ArcFace. ECCV 2020"),
    ),
    "curricular_face": Preset(
        losses.CurricularFaceLoss,
        {"margin": 0.5, "scale": 64.0},
        **_WITH_PROXIES,
        source=Source("code", "Huang et al. CurricularFace. CVPR 2020"),
    ),
    "mag_face": Preset(
        losses.MagFaceLoss,
        {"scale": 64.0, "regularization": 35.0},
        **_WITH_PROXIES,
        length=3.0,
        source=Source("code", "Meng et al. MagFace. CVPR 2021"),
    ),
    "ada_face": Preset(
        losses.AdaFaceLoss,
        {"margin": 0.4, "scale": 64.0},
        **_WITH_PROXIES,
        length=3.0,
        source=Source("code", "Kim et al. AdaFace. CVPR 2022"),
    ),
    "sphere_face": Preset(
        _annealed(losses.SphereFaceLoss),
        {"margin": 4.0},
        **_WITH_PROXIES,
        **_RAW,
        source=Source("code", "Liu et al. SphereFace. CVPR 2017"),
    ),
    "sphere_face2": Preset(losses.SphereFace2Loss, **_WITH_PROXIES, source=Source("code", "Wen et al. SphereFace2. ICLR 2022")),
    "large_margin_softmax": Preset(
        _annealed(losses.LargeMarginSoftmaxLoss), {"margin": 4.0}, **_WITH_PROXIES, **_RAW, source=_paper("Liu et al. L-Softmax. ICML 2016")
    ),
    "p2s_grad": Preset(losses.P2SGradLoss, **_WITH_PROXIES, source=_paper("Zhang et al. P2SGrad. CVPR 2019")),
    "proxy_anchor": Preset(losses.ProxyAnchorLoss, **_WITH_PROXIES, source=Source("code", "Kim et al. Proxy Anchor Loss. CVPR 2020")),
    "proxy_nca": Preset(
        losses.ProxyNCALoss, **_WITH_PROXIES, source=_paper("Movshovitz-Attias et al. No Fuss Distance Metric Learning. ICCV 2017")
    ),
    "proxy_nca_plus_plus": Preset(
        losses.ProxyNCAPlusPlusLoss, **_WITH_PROXIES, source=_paper("Teh, DeVries, Taylor. ProxyNCA++. ECCV 2020")
    ),
    "soft_triple": Preset(
        losses.SoftTripleLoss, {"per_class": 10}, **_WITH_PROXIES, source=Source("code", "Qian et al. SoftTriple. ICCV 2019")
    ),
    "triplet_center": Preset(
        losses.TripletCenterLoss, {"margin": 5.0}, **_WITH_PROXIES, **_RAW, source=_unread("He et al. Triplet-Center Loss. CVPR 2018")
    ),
    "center": Preset(
        _center,
        {"weight": 0.003, "center_rate": 0.5},
        **_WITH_PROXIES,
        **_RAW,
        source=_paper("Wen et al. Center Loss. ECCV 2016: beside softmax"),
    ),
    # many classes, or instances
    "negative_sampling": Preset(
        losses.NegativeSamplingLoss,
        {"num_noise": 20},
        **_WITH_PROXIES,
        **_RAW,
        source=_paper("Mikolov et al. Distributed Representations. NIPS 2013"),
    ),
    "hierarchical_softmax": Preset(
        losses.HierarchicalSoftmaxLoss,
        references="tree",
        proxy_rate=25.0,
        **_RAW,
        source=_paper("Morin, Bengio. Hierarchical Neural Language Model. 2005"),
    ),
    "nce": Preset(
        losses.NCELoss,
        {"num_noise": 4096, "temperature": 0.07},
        references="bank",
        source=_paper("Wu et al. Instance Discrimination. CVPR 2018"),
    ),
    "nonparametric_softmax": Preset(
        losses.NonParametricSoftmaxLoss,
        {"temperature": 0.07},
        references="bank",
        source=_paper("Wu et al. Instance Discrimination. CVPR 2018"),
    ),
}
