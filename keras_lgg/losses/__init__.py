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
from keras_lgg.losses.variation import (
    GraphVariation,
    SmoothnessVariation,
    graph_variation,
    smoothness_variation,
)

__all__ = [
    "CrossBatch",
    "GeometryLoss",
    "GraphDistillation",
    "GraphSmoothness",
    "GraphVariation",
    "RelationalAngle",
    "RelationalDistance",
    "SmoothnessVariation",
    "TargetGraph",
    "graph_distillation",
    "graph_smoothness",
    "graph_variation",
    "relational_angle",
    "relational_distance",
    "smoothness_variation",
    "target_graph",
]


def __dir__():
    return __all__
