"""Losses that replicas take by sums: values and gradients beside those of one device in float64.

python tests/support/replica_values.py 2

A process of its own, of TensorFlow, since the number of devices is fixed before it starts. It
prints a JSON object: for each case the relative difference of the value and of the gradients, and
how many rows were gathered.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from keras_lgg import losses
from keras_lgg.losses import replicas

REPLICAS = int(sys.argv[1])
N = 240
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 3, N).astype("int32")
SOME = np.where(np.arange(N) % 7 == 0, -1, CLASSES).astype("int32")  # -1: without a label
TEACHER, X, NEXT = (
    np.maximum(RNG.normal(0.3, 1.0, (N, d)), 0).astype("float32") for d in (5, 4, 3)
)
X[[3, 40]] = 0.0  # dead rows
CLOSE = (TEACHER * (1 + 1e-3 * RNG.normal(size=TEACHER.shape))).astype("float32")
WEIGHTS = RNG.random(N).astype("float32")
AFFINITY = [[1.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.0]]
MEAN = {"reduction": "sum_over_batch_size"}

# By name: the loss, y_true, y_pred, the weights of the samples.
CASES = {
    "GKD": (losses.GraphDistillation(), TEACHER, X, None),
    "GKD, power 2": (losses.GraphDistillation(power=2), TEACHER, X, None),
    "GKD, mean": (losses.GraphDistillation(**MEAN), TEACHER, X, None),
    "GKD, weighted": (losses.GraphDistillation(), TEACHER, X, WEIGHTS),
    "GKD, weighted mean": (
        losses.GraphDistillation(reduction="mean_with_sample_weight"),
        TEACHER,
        X,
        WEIGHTS,
    ),
    "GKD, nearly the teacher": (losses.GraphDistillation(), TEACHER, CLOSE, None),
    "GKD, float64": (losses.GraphDistillation(), TEACHER, X.astype("float64"), None),
    "graph variation": (losses.GraphVariation(), None, [X, NEXT, TEACHER], None),
    "target graph": (losses.TargetGraph(num_classes=3), CLASSES, X, None),
    "target graph, affinity": (losses.TargetGraph(affinity=AFFINITY, **MEAN), CLASSES, X, WEIGHTS),
    "target graph, some labels": (
        losses.TargetGraph(num_classes=3, ignore_class=-1),
        SOME,
        X,
        None,
    ),
    **{
        f"smoothness variation{', relative' * relative}, power {power}": (
            losses.SmoothnessVariation(num_classes=3, power=power, relative=relative),
            CLASSES,
            [X, NEXT, TEACHER],
            None,
        )
        for relative in (False, True)
        for power in (1, 2, 3)
    },
    "smoothness variation, some labels": (
        losses.SmoothnessVariation(num_classes=3, ignore_class=-1, relative=True),
        SOME,
        [X, NEXT],
        None,
    ),
    "smoothness variation, one-hot": (
        losses.SmoothnessVariation(),
        np.eye(3, dtype="float32")[CLASSES],
        [X, NEXT],
        None,
    ),
    "smoothness variation, continuous": (
        losses.SmoothnessVariation(continuous=True),
        WEIGHTS,
        [X, NEXT],
        None,
    ),
    # What needs all rows takes them.
    "GKD, k-NN": (losses.GraphDistillation(k=3), TEACHER, X, None),
    "GKD, wide": (losses.GraphDistillation(), np.tile(TEACHER, 60), X, None),
    "smoothness variation, uncounted": (losses.SmoothnessVariation(), CLASSES, [X, NEXT], None),
}


def value_and_gradients(loss, y_true, y_pred, weights, dtype=None):
    tensors = tf.nest.map_structure(lambda x: tf.constant(x, dtype or x.dtype), y_pred)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = loss(tensors) if y_true is None else loss(y_true, tensors, sample_weight=weights)
    return value, tf.nest.flatten(tape.gradient(value, tensors))


def part(structure, replica):
    """Rows of one replica, of which each has a number of its own."""
    bounds = [round(N * (i / REPLICAS) ** 1.5) for i in range(REPLICAS + 1)]
    mine = slice(bounds[replica], bounds[replica + 1])
    return tf.nest.map_structure(lambda x: None if x is None else x[mine], structure)


def on_replicas(strategy, loss, *given):
    def step():
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        return value_and_gradients(loss, *part(given, index))

    value, gradients = strategy.run(step)
    rows = [tf.concat(strategy.experimental_local_results(g), axis=0) for g in gradients]
    return sum(strategy.experimental_local_results(value)), rows


def apart(one, other):
    one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
    return float(np.linalg.norm(one - other) / max(np.linalg.norm(one), 1e-12))


def main():
    devices = tf.config.list_physical_devices("CPU")[0]
    made = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    tf.config.set_logical_device_configuration(devices, made)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])
    gathered = []
    gather = replicas.gather
    replicas.gather = lambda tensors: gathered.append(tensors) or gather(tensors)
    report = {}
    for name, case in CASES.items():
        gathered.clear()
        one = value_and_gradients(*case, dtype="float64")
        several = on_replicas(strategy, *case)
        report[name] = {
            "value": apart(one[0], several[0]),
            "gradients": max(map(apart, one[1], several[1])),
            "gathered": len(gathered) > 0,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
