"""Losses: thin modules over `metriczoo.functional`. Any loss takes any miner, any similarity and any references."""

from metriczoo.losses.angular_margin import AdaFaceLoss, ArcFaceLoss, CurricularFaceLoss, MagFaceLoss, SphereFace2Loss, SubCenterArcFaceLoss
from metriczoo.losses.base import Call, FunctionLoss, Loss, from_function
from metriczoo.losses.centers import CenterLoss, MagnetLoss, TripletCenterLoss
from metriczoo.losses.combine import GradCache, SumLoss
from metriczoo.losses.easy_positive import EasyPositiveLoss
from metriczoo.losses.histogram import DynamicSoftMarginLoss, HistogramLoss
from metriczoo.losses.info_nce import DecoupledContrastiveLoss, InfoNCELoss, NTXentLoss, SupConLoss, WeightedDecoupledContrastiveLoss
from metriczoo.losses.instance import NCELoss
from metriczoo.losses.lifted import GeneralizedLiftedStructureLoss, LiftedStructureLoss
from metriczoo.losses.linear_softmax import L2SoftmaxLoss, NormFaceLoss, SoftmaxLoss
from metriczoo.losses.mmc import MMCLoss
from metriczoo.losses.multiplicative_margin import Annealing, LargeMarginSoftmaxLoss, SphereFaceLoss
from metriczoo.losses.n_pairs import AngularLoss, NPairsLoss
from metriczoo.losses.neighbours import InstanceLoss, NCALoss, SoftNearestNeighborLoss
from metriczoo.losses.pair import CircleLoss, ContrastiveLoss, LMNNLoss, TripletMarginLoss, UnifiedLoss
from metriczoo.losses.proxy import P2SGradLoss, ProxyAnchorLoss, ProxyNCALoss, ProxyNCAPlusPlusLoss, SoftTripleLoss
from metriczoo.losses.ranking import FastAPLoss, PNPLoss, RecallAtKLoss, SmoothAPLoss
from metriczoo.losses.redundancy import BarlowTwinsLoss, VICRegLoss
from metriczoo.losses.regularizers import (
    CenterInvariantRegularizer,
    EmbeddingNormRegularizer,
    ProximalRegularizer,
    ProxyOrthogonalityRegularizer,
    SparseCentersRegularizer,
    ZeroMeanRegularizer,
)
from metriczoo.losses.sampling import HierarchicalSoftmaxLoss, NegativeSamplingLoss, NonParametricSoftmaxLoss
from metriczoo.losses.sigmoid import BinomialDevianceLoss, SigmoidLoss
from metriczoo.losses.softmax import AMSoftmaxLoss
from metriczoo.losses.symmetric import SymmetricLoss
from metriczoo.losses.tags import Tags
from metriczoo.losses.thresholds import MarginLoss, MultiSimilarityLoss, RankedListLoss, ThresholdConsistentMarginLoss
from metriczoo.losses.tuplet import IntraPairVarianceLoss, TupletMarginLoss

__all__ = [
    "AMSoftmaxLoss",
    "AdaFaceLoss",
    "AngularLoss",
    "Annealing",
    "ArcFaceLoss",
    "BarlowTwinsLoss",
    "BinomialDevianceLoss",
    "Call",
    "CenterInvariantRegularizer",
    "CenterLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CurricularFaceLoss",
    "DecoupledContrastiveLoss",
    "DynamicSoftMarginLoss",
    "EasyPositiveLoss",
    "EmbeddingNormRegularizer",
    "FastAPLoss",
    "FunctionLoss",
    "GeneralizedLiftedStructureLoss",
    "GradCache",
    "HierarchicalSoftmaxLoss",
    "HistogramLoss",
    "InfoNCELoss",
    "InstanceLoss",
    "IntraPairVarianceLoss",
    "L2SoftmaxLoss",
    "LMNNLoss",
    "LargeMarginSoftmaxLoss",
    "LiftedStructureLoss",
    "Loss",
    "MMCLoss",
    "MagFaceLoss",
    "MagnetLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NCELoss",
    "NPairsLoss",
    "NTXentLoss",
    "NegativeSamplingLoss",
    "NonParametricSoftmaxLoss",
    "NormFaceLoss",
    "P2SGradLoss",
    "PNPLoss",
    "ProximalRegularizer",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "ProxyNCAPlusPlusLoss",
    "ProxyOrthogonalityRegularizer",
    "RankedListLoss",
    "RecallAtKLoss",
    "SigmoidLoss",
    "SmoothAPLoss",
    "SoftNearestNeighborLoss",
    "SoftTripleLoss",
    "SoftmaxLoss",
    "SparseCentersRegularizer",
    "SphereFace2Loss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
    "SumLoss",
    "SupConLoss",
    "SymmetricLoss",
    "Tags",
    "ThresholdConsistentMarginLoss",
    "TripletCenterLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
    "UnifiedLoss",
    "VICRegLoss",
    "WeightedDecoupledContrastiveLoss",
    "ZeroMeanRegularizer",
    "from_function",
]

CosFaceLoss = AMSoftmaxLoss
