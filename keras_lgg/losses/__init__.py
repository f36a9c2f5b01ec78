"""Losses on latent geometry graphs: pure functions, and Keras loss classes over them.

Arguments come in the order of `keras.losses`: the target first, what is trained second.
Functions that score samples return one value per sample, ``(n,)``. The published loss is the sum
or the mean of these values, as each docstring says, and the class of the same name reduces them
that way by default.

References:
    [1] Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries with
        Graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
    [2] Lassance et al., "Deep geometric knowledge distillation with graphs",
        https://arxiv.org/abs/1911.03080
    [3] Bontonou et al., "Introducing graph smoothness loss for training deep learning
        architectures", https://arxiv.org/abs/1905.00301
    [4] Lassance, Gripon, Ortega, "Laplacian networks: bounding indicator function smoothness for
        neural network robustness", https://arxiv.org/abs/1805.10133
    [5] Park et al., "Relational knowledge distillation", CVPR 2019,
        https://arxiv.org/abs/1904.05068
    [6] Tung and Mori, "Similarity-preserving knowledge distillation", ICCV 2019,
        https://arxiv.org/abs/1907.09682
    [7] Passalis and Tefas, "Learning deep representations with probabilistic knowledge transfer",
        ECCV 2018, https://arxiv.org/abs/1803.10837
    [8] Peng et al., "Correlation congruence for knowledge distillation", ICCV 2019,
        https://arxiv.org/abs/1904.01802
"""

from keras_lgg.losses.base import GeometryLoss
from keras_lgg.losses.cross_batch import CrossBatch
from keras_lgg.losses.distillation import (
    GraphDistillation,
    RelationalAngle,
    RelationalDistance,
    graph_distillation,
    relational_angle,
    relational_distance,
)
from keras_lgg.losses.embedding import (
    GraphSmoothness,
    TargetGraph,
    graph_smoothness,
    target_graph,
)
from keras_lgg.losses.similarities import (
    CorrelationCongruence,
    ProbabilisticTransfer,
    SimilarityPreserving,
    correlation_congruence,
    probabilistic_transfer,
    similarity_preserving,
)
from keras_lgg.losses.variation import (
    GraphVariation,
    SmoothnessVariation,
    graph_variation,
    smoothness_variation,
)

__all__ = [
    "CorrelationCongruence",
    "CrossBatch",
    "GeometryLoss",
    "GraphDistillation",
    "GraphSmoothness",
    "GraphVariation",
    "ProbabilisticTransfer",
    "RelationalAngle",
    "RelationalDistance",
    "SimilarityPreserving",
    "SmoothnessVariation",
    "TargetGraph",
    "correlation_congruence",
    "graph_distillation",
    "graph_smoothness",
    "graph_variation",
    "probabilistic_transfer",
    "relational_angle",
    "relational_distance",
    "similarity_preserving",
    "smoothness_variation",
    "target_graph",
]


def __dir__():
    return __all__
