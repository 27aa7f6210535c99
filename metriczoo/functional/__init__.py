"""The losses as pure functions of `(s_n, s_p)`: plain tensors `[b, n]` and `[b, p]`, or `Scores`."""

from metriczoo.functional.angular_margin import (
    ada_face,
    arc_face,
    class_size_margins,
    curricular_face,
    mag_face,
    sphere_face2,
    sub_center_arc_face,
)
from metriczoo.functional.centers import center, magnet, triplet_center
from metriczoo.functional.contrastive import contrastive, contrastive_cosine
from metriczoo.functional.easy_positive import easy_positive
from metriczoo.functional.histogram import difference_histogram, dynamic_soft_margin, histogram
from metriczoo.functional.info_nce import SUPCON_FORMS, decoupled_contrastive, nt_xent, supcon, weighted_decoupled_contrastive
from metriczoo.functional.lifted import generalized_lifted_structure, lifted_structure
from metriczoo.functional.linear_softmax import l2_softmax, large_margin_softmax, norm_face, softmax, sphere_face
from metriczoo.functional.lmnn import lmnn
from metriczoo.functional.mmc import mmc
from metriczoo.functional.n_pairs import angular, n_pairs
from metriczoo.functional.nce import nce
from metriczoo.functional.neighbours import instance, nca, soft_nearest_neighbor
from metriczoo.functional.proxy import p2s_grad, proxy_anchor, proxy_nca, proxy_nca_plus_plus, soft_triple
from metriczoo.functional.ranking import PNP_VARIANTS, fast_ap, pnp, recall_at_k, smooth_ap
from metriczoo.functional.redundancy import barlow_twins, vicreg
from metriczoo.functional.regularizers import center_invariant, embedding_norm, proximal, proxy_orthogonality, sparse_centers, zero_mean
from metriczoo.functional.sampling import hierarchical_softmax, negative_sampling, nonparametric_softmax
from metriczoo.functional.sigmoid import binomial_deviance, sigmoid
from metriczoo.functional.thresholds import margin, multi_similarity, ranked_list, threshold_consistent_margin
from metriczoo.functional.triplet import triplet_margin
from metriczoo.functional.tuplet import intra_pair_variance, tuplet_margin
from metriczoo.functional.unified import POOLINGS, am_softmax, circle, unified

__all__ = [
    "PNP_VARIANTS",
    "POOLINGS",
    "SUPCON_FORMS",
    "ada_face",
    "am_softmax",
    "angular",
    "arc_face",
    "barlow_twins",
    "binomial_deviance",
    "center",
    "center_invariant",
    "circle",
    "class_size_margins",
    "contrastive",
    "contrastive_cosine",
    "curricular_face",
    "decoupled_contrastive",
    "difference_histogram",
    "dynamic_soft_margin",
    "easy_positive",
    "embedding_norm",
    "fast_ap",
    "generalized_lifted_structure",
    "hierarchical_softmax",
    "histogram",
    "instance",
    "intra_pair_variance",
    "l2_softmax",
    "large_margin_softmax",
    "lifted_structure",
    "lmnn",
    "mag_face",
    "magnet",
    "margin",
    "mmc",
    "multi_similarity",
    "n_pairs",
    "nca",
    "nce",
    "negative_sampling",
    "nonparametric_softmax",
    "norm_face",
    "nt_xent",
    "p2s_grad",
    "pnp",
    "proximal",
    "proxy_anchor",
    "proxy_nca",
    "proxy_nca_plus_plus",
    "proxy_orthogonality",
    "ranked_list",
    "recall_at_k",
    "sigmoid",
    "smooth_ap",
    "soft_nearest_neighbor",
    "soft_triple",
    "softmax",
    "sparse_centers",
    "sphere_face",
    "sphere_face2",
    "sub_center_arc_face",
    "supcon",
    "threshold_consistent_margin",
    "triplet_center",
    "triplet_margin",
    "tuplet_margin",
    "unified",
    "vicreg",
    "weighted_decoupled_contrastive",
    "zero_mean",
]
