"""Batch sizes, image sizes and widths that are not known when a function is traced."""

import numpy as np
import pytest
from autodiff import BACKEND
from keras import ops

from keras_lgg import graphs, losses

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow traces open shapes"),
]

RNG = np.random.default_rng(0)
X = RNG.random((6, 4, 5, 3)).astype("float32")
OTHER = RNG.random((6, 2, 3, 3)).astype("float32")
LABELS = (np.arange(6) % 3).astype("int32")
OPEN = {
    "batch": (None, 4, 5, 3),
    "space": (6, None, None, 3),
    "one of two": (6, None, 5, 3),
    "channels": (6, 4, 5, None),
    "batch and space": (None, None, None, 3),
    "all": (None, None, None, None),
}


def opened(shape, pattern):
    return [None if hole is None else size for size, hole in zip(shape, pattern, strict=True)]


# Functions of a representation, another one, and labels.
FORMS = {
    "graph_smoothness": lambda x, o, y: losses.graph_smoothness(y, x),
    "graph_smoothness k": lambda x, o, y: losses.graph_smoothness(y, x, k=2),
    "graph_smoothness blocks": lambda x, o, y: losses.graph_smoothness(y, x, block_size=4),
    "graph_smoothness few labels": lambda x, o, y: losses.graph_smoothness(y, x, ignore_class=0),
    "target_graph": lambda x, o, y: losses.target_graph(y, x, num_classes=3),
    "target_graph rbf": lambda x, o, y: losses.target_graph(y, x, metric="rbf"),
    "target_graph blocks": lambda x, o, y: losses.target_graph(y, x, block_size=4),
    "graph_distillation": lambda x, o, y: losses.graph_distillation(o, x),
    "graph_distillation power": lambda x, o, y: losses.graph_distillation(o, x, power=2, k=3),
    "graph_distillation intra": lambda x, o, y: losses.graph_distillation(
        o, x, pairs="intra", labels=y, num_classes=3
    ),
    "graph_distillation inter": lambda x, o, y: losses.graph_distillation(
        o, x, pairs="inter", labels=ops.one_hot(y, 3)
    ),
    "graph_distillation blocks": lambda x, o, y: losses.graph_distillation(
        o, x, block_size=4, power=2, k=2
    ),
    "relational_distance": lambda x, o, y: losses.relational_distance(o, x),
    "relational_distance blocks": lambda x, o, y: losses.relational_distance(o, x, block_size=4),
    "relational_angle": lambda x, o, y: losses.relational_angle(o, x, arms=4),
    "similarity_preserving": lambda x, o, y: losses.similarity_preserving(o, x),
    "similarity_preserving blocks": lambda x, o, y: losses.similarity_preserving(
        o, x, block_size=4
    ),
    "probabilistic_transfer": lambda x, o, y: losses.probabilistic_transfer(o, x),
    "correlation_congruence": lambda x, o, y: losses.correlation_congruence(o, x),
    "smoothness_variation": lambda x, o, y: losses.smoothness_variation([x, o], y),
    "smoothness_variation linear": lambda x, o, y: losses.smoothness_variation(
        [x, o], y, num_classes=3, power=2, relative=True
    ),
    "smoothness_variation blocks": lambda x, o, y: losses.smoothness_variation(
        [x, o], y, k=2, num_classes=3, block_size=4
    ),
    "graph_variation": lambda x, o, y: losses.graph_variation([x, o]),
    "graph_variation k": lambda x, o, y: losses.graph_variation([x, o], k=2),
    "graph_variation blocks": lambda x, o, y: losses.graph_variation([x, o], block_size=4),
    "GraphSmoothness": lambda x, o, y: losses.GraphSmoothness()(y, x),
    "TargetGraph": lambda x, o, y: losses.TargetGraph()(y, x),
    "GraphDistillation": lambda x, o, y: losses.GraphDistillation()(o, x),
    "RelationalDistance": lambda x, o, y: losses.RelationalDistance()(o, x),
    "RelationalAngle": lambda x, o, y: losses.RelationalAngle()(o, x),
    "SmoothnessVariation": lambda x, o, y: losses.SmoothnessVariation()(y, [x, o]),
    "GraphVariation": lambda x, o, y: losses.GraphVariation()([x, o]),
    "latent_geometry_graph": lambda x, o, y: graphs.latent_geometry_graph(x, k=2),
}


@pytest.mark.parametrize("pattern", OPEN.values(), ids=OPEN)
@pytest.mark.parametrize("function", FORMS.values(), ids=FORMS)
def test_values_and_gradients_are_those_of_known_shapes(function, pattern):
    import tensorflow as tf

    def both(x, o, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            values = function(x, o, y)
            total = tf.reduce_sum(values)
        return values, tape.gradient(total, x)

    signature = [
        tf.TensorSpec(opened(X.shape, pattern), "float32"),
        tf.TensorSpec(opened(OTHER.shape, pattern), "float32"),
        tf.TensorSpec(opened(LABELS.shape, pattern[:1]), "int32"),
    ]
    expected = both(*map(tf.convert_to_tensor, (X, OTHER, LABELS)))
    found = tf.function(both, input_signature=signature, autograph=False)(X, OTHER, LABELS)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * float(np.abs(b).max()) + 1e-7)
