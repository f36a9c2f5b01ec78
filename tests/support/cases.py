"""Batches and losses that several test files run through."""

import numpy as np
from keras import ops

from keras_lgg import losses

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0, 1, 3])


def batch(kind, dtype="float32", seed=0, shape=(10, 3, 2)):
    """A random batch: non-negative as after a ReLU, or signed."""
    x = np.random.default_rng(seed).normal(size=shape)
    return (np.abs(x) + 0.01 if kind == "non-negative" else x + 0.3).astype(dtype)


# Each loss as a scalar of the batch `x` that is trained, with a second batch `other` of another
# width where it compares two.
LOSSES = {
    "gkd": lambda x, other, labels: ops.sum(losses.graph_distillation(other, x)),
    "gkd-knn": lambda x, other, labels: ops.sum(losses.graph_distillation(other, x, k=3)),
    "gkd-power": lambda x, other, labels: ops.sum(losses.graph_distillation(other, x, power=3)),
    "gkd-intra": lambda x, other, labels: ops.sum(
        losses.graph_distillation(other, x, pairs="intra", labels=labels)
    ),
    "gkd-inter-knn": lambda x, other, labels: ops.sum(
        losses.graph_distillation(other, x, pairs="inter", labels=labels, k=2, power=2)
    ),
    "rkd-distance": lambda x, other, labels: ops.mean(losses.relational_distance(other, x)),
    "rkd-angle": lambda x, other, labels: ops.mean(losses.relational_angle(other, x)),
    "rkd-angle-arms": lambda x, other, labels: ops.mean(losses.relational_angle(other, x, arms=4)),
    "spkd": lambda x, other, labels: 10 * ops.mean(losses.similarity_preserving(other, x)),
    "pkt": lambda x, other, labels: 1000 * ops.mean(losses.probabilistic_transfer(other, x)),
    "cckd": lambda x, other, labels: 10 * ops.mean(losses.correlation_congruence(other, x)),
    "gsl": lambda x, other, labels: ops.sum(losses.graph_smoothness(labels, x, alpha=0.5)),
    "gsl-knn": lambda x, other, labels: ops.sum(losses.graph_smoothness(labels, x, k=3)),
    "target": lambda x, other, labels: ops.sum(losses.target_graph(labels, x)),
    "target-rbf": lambda x, other, labels: ops.sum(
        losses.target_graph(labels, x, metric="rbf", alpha=0.3)
    ),
    "smoothness-variation": lambda x, other, labels: losses.smoothness_variation(
        [other, x], labels, power=1
    ),
    "smoothness-variation-linear": lambda x, other, labels: losses.smoothness_variation(
        [other, x], labels, power=2, num_classes=4
    ),
    "smoothness-variation-knn": lambda x, other, labels: losses.smoothness_variation(
        [other, x], labels, power=3, k=3
    ),
    "smoothness-variation-relative": lambda x, other, labels: losses.smoothness_variation(
        [other, x], labels, power=2, num_classes=4, relative=True
    ),
    "smoothness-variation-relative-knn": lambda x, other, labels: losses.smoothness_variation(
        [other, x], labels, power=1, k=2, relative=True
    ),
    "graph-variation": lambda x, other, labels: losses.graph_variation([other, x]),
    "graph-variation-knn": lambda x, other, labels: losses.graph_variation([other, x], k=3),
}
