"""Trains each loss on one device and on several replicas, and says how far their weights part.

python tests/support/replica_training.py 4 --samples 64  # four devices of this process
python tests/support/replica_training.py 2 --process 0 --port 9000  # the first of two processes

A process of its own, since the number of devices is fixed before a backend starts. It prints a
JSON object: for each case, the largest relative difference of an array of weights, and the logs of
both trainings.
"""

# ruff: noqa: E402 (the devices are made before a backend starts)
import argparse
import contextlib
import json
import os
import pathlib
import pickle

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("replicas", type=int)
PARSER.add_argument("--samples", type=int, default=64)
PARSER.add_argument("--local", action="store_true", help="with global_graph=False")
PARSER.add_argument("--process", type=int, help="of as many processes as replicas, on JAX")
PARSER.add_argument("--port", type=int, help="where the first process listens")
PARSER.add_argument("--model-parallel", action="store_true", help="weights sharded, on JAX")
PARSER.add_argument("--only", nargs="+", help="names of cases")
PARSER.add_argument("--xla", action="store_true", help="compile as Keras does by default")
PARSER.add_argument("--known", help="file of the trainings on one device, written if missing")
ARGS = PARSER.parse_args()
REPLICAS, SAMPLES, GLOBAL = ARGS.replicas, ARGS.samples, not ARGS.local
BATCH, EPOCHS = 16, 5
if ARGS.process is None:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={REPLICAS}"

import keras
import numpy as np
from keras import layers

import keras_lgg as lgg
from keras_lgg import losses

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * REPLICAS,
    )
    # One for all trainings: the keys of collective operations are those of a strategy.
    STRATEGY = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])

RNG = np.random.default_rng(0)
X = RNG.normal(size=(SAMPLES, 10)).astype("float32")
Y = RNG.integers(0, 3, SAMPLES).astype("int32")


def network(width=16, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(width, "relu", bias_initializer="normal", name="h1"),
            layers.Dense(width, "relu", bias_initializer="normal", name="h2"),
            layers.Dense(3, bias_initializer="normal"),
        ]
    )


def embedder():
    return keras.Sequential([network(), layers.UnitNormalization()])


def with_layer(loss):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((10,))
    h1 = layers.Dense(16, "relu")(inputs)
    h2 = layers.Dense(16, "relu")(h1)
    h2 = lgg.layers.GeometryPenalty(loss, weight=0.1)([h1, h2])
    return keras.Model(inputs, layers.Dense(3)(h2))


def penalized(loss, weight=0.01):
    return lgg.GeometryModel(network(), [lgg.Penalty(loss, ["h1", "h2"], weight)])


def distilled(loss, taps=(("h1", "h1"),)):
    return lgg.Distiller(network(24, seed=1), network(), [lgg.Penalty(loss, taps, 1.0)])


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def cases():
    """By name: a function that builds a model, and the loss that it is compiled with."""
    options = {"global_graph": GLOBAL}
    for name, loss in {
        "graph_smoothness": losses.GraphSmoothness(**options),
        "graph_smoothness_knn": losses.GraphSmoothness(
            k=3, reduction="sum_over_batch_size", **options
        ),
        "target_graph": losses.TargetGraph(reduction="sum_over_batch_size", **options),
    }.items():
        yield name, embedder, loss
    if SAMPLES % BATCH % REPLICAS:  # Keras's own mean over uneven replicas is another one
        return
    for name, build, loss in (
        ("smoothness_variation", penalized, losses.SmoothnessVariation(num_classes=3, **options)),
        ("smoothness_variation_knn", penalized, losses.SmoothnessVariation(k=3, **options)),
        ("graph_variation", penalized, losses.GraphVariation(**options)),
        ("layer", with_layer, losses.GraphVariation(**options)),
        ("graph_distillation", distilled, losses.GraphDistillation(**options)),
        ("graph_distillation_knn", distilled, losses.GraphDistillation(k=3, **options)),
        ("relational_distance", distilled, losses.RelationalDistance(**options)),
        ("relational_angle", distilled, losses.RelationalAngle(**options)),
    ):
        yield name, lambda build=build, loss=loss: build(loss), cross_entropy()
    if GLOBAL:
        variation = losses.GraphVariation()
        yield "balanced", lambda: penalized(variation, "balanced"), cross_entropy()
        # Keras's own, which look at single samples.
        logits = keras.distillation.LogitsDistillation(temperature=3.0)
        feature = keras.distillation.FeatureDistillation(loss="mse")
        yield "logits", lambda: distilled(logits, None), cross_entropy()
        yield "feature", lambda: distilled(feature, None), cross_entropy()


@contextlib.contextmanager
def replicas():
    if BACKEND == "tensorflow":
        with STRATEGY.scope():
            yield
        return
    keras.distribution.set_distribution(distribution())
    yield
    keras.distribution.set_distribution(None)


def distribution():
    devices = keras.distribution.list_devices()
    if not ARGS.model_parallel:
        return keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    mesh = keras.distribution.DeviceMesh((2, REPLICAS // 2), ("batch", "model"), devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout["h1/kernel"] = (None, "model")
    layout["h2/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


def train(build, loss, *, split=False):
    """The weights and the last logs; with ``split``, each process brings its part of a batch."""
    model = build()
    model.compile(keras.optimizers.SGD(0.003), loss, jit_compile="auto" if ARGS.xla else False)
    if BACKEND == "tensorflow":
        arguments = {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)}
    else:
        part = BATCH // REPLICAS if split else BATCH
        mine = np.arange(SAMPLES) % BATCH // part == (ARGS.process if split else 0)
        arguments = {"x": X[mine], "y": Y[mine], "batch_size": part}
    history = model.fit(**arguments, epochs=EPOCHS, shuffle=False, verbose=0).history
    return model.get_weights(), {name: values[-1] for name, values in history.items()}


def _relative(a, b):
    """The difference of two arrays, by their norms."""
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12))


def main():
    if ARGS.process is not None:
        keras.distribution.initialize(f"127.0.0.1:{ARGS.port}", REPLICAS, ARGS.process)
    report, known = {}, {}
    path = ARGS.known and pathlib.Path(ARGS.known)
    if path and path.exists():
        known = pickle.loads(path.read_bytes())
    for name, build, loss in cases():
        if ARGS.only and name not in ARGS.only:
            continue
        if name not in known:
            known[name] = train(build, loss)
        one, one_logs = known[name]
        with replicas():
            several, several_logs = train(build, loss, split=ARGS.process is not None)
        apart = max(_relative(a, b) for a, b in zip(one, several, strict=True))
        report[name] = {"apart": apart, "logs": [one_logs, several_logs]}
    if path and not path.exists():
        path.write_bytes(pickle.dumps(known))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
