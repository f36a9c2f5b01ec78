"""Trains each loss on one device and on several replicas, and says how far their weights part.

python tests/support/replica_training.py 4 --samples 64  # four devices of this process
python tests/support/replica_training.py 2 --process 0 --port 9000  # the first of two processes

A process of its own, since the number of devices is fixed before a backend starts. It prints a
JSON object: for each network the largest relative difference of an array of weights, and for each
model the logs of both trainings. A model holds many networks, each with a loss of its own, since to
compile one program takes less time than many.
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
PARSER.add_argument("--only", nargs="+", help="names of builders")
PARSER.add_argument("--xla", action="store_true", help="compile as Keras does by default")
PARSER.add_argument("--known", help="file of the trainings on one device, written if missing")
ARGS = PARSER.parse_args()
REPLICAS, SAMPLES, GLOBAL = ARGS.replicas, ARGS.samples, not ARGS.local
BATCH, EPOCHS = 16, 5
if ARGS.process is None:
    devices = f"--xla_force_host_platform_device_count={REPLICAS}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"

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


def network(name, width=16):
    keras.utils.set_random_seed(0)  # the same weights, whatever else was built before
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(width, "relu", bias_initializer="normal", name="h1"),
            layers.Dense(width, "relu", bias_initializer="normal", name="h2"),
            layers.Dense(3, bias_initializer="normal"),
        ],
        name=name,
    )


def with_layer(name, loss):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((10,))
    h1 = layers.Dense(16, "relu")(inputs)
    h2 = layers.Dense(16, "relu")(h1)
    h2 = lgg.layers.GeometryPenalty(loss, weight=0.1, name=f"{name}_penalty")([h1, h2])
    return keras.Model(inputs, layers.Dense(3)(h2), name=name)


def side_by_side(networks, head=None):
    """One model of networks which share nothing but their input: an output for each."""
    inputs = keras.Input((10,))
    outputs = {each.name: each(inputs) for each in networks}
    if head is not None:
        outputs = {name: head(output) for name, output in outputs.items()}
    return keras.Model(inputs, outputs)


def cross_entropies(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return dict.fromkeys(model.output_names, loss)


def embedders(options):
    """Embeddings, each trained by the loss that the model is compiled with."""
    compiled = {
        "graph_smoothness": losses.GraphSmoothness(**options),
        "graph_smoothness_knn": losses.GraphSmoothness(
            k=3, reduction="sum_over_batch_size", **options
        ),
        "target_graph": losses.TargetGraph(reduction="sum_over_batch_size", **options),
    }
    networks = [network(name) for name in compiled]
    return side_by_side(networks, layers.UnitNormalization()), networks, compiled


def penalized(options):
    """Classifiers, each with a penalty of its own, or with a layer that holds one."""
    penalties = {
        "smoothness_variation": (losses.SmoothnessVariation(num_classes=3, **options), None),
        "smoothness_variation_knn": (losses.SmoothnessVariation(k=3, **options), 0.01),
        "graph_variation": (losses.GraphVariation(**options), 0.01),
    }
    if GLOBAL:
        penalties["balanced"] = losses.GraphVariation(), "balanced"
        penalties["memory"] = losses.CrossBatch(losses.GraphVariation(), 24), 0.01
    networks = [network(name) for name in penalties]
    networks.append(with_layer("layer", losses.GraphVariation(**options)))
    base = side_by_side(networks)
    model = lgg.GeometryModel(
        base,
        [
            lgg.Penalty(
                loss,
                [f"{name}/h1", f"{name}/h2"],
                weight,
                name=name,
                labels=name if name.startswith("smoothness") else None,
            )
            for name, (loss, weight) in penalties.items()
        ],
    )
    return model, networks, cross_entropies(base)


def distilled(options):
    """Students, each with a penalty and a teacher of its own."""
    penalties = {
        "graph_distillation": losses.GraphDistillation(**options),
        "graph_distillation_knn": losses.GraphDistillation(k=3, **options),
        "relational_distance": losses.RelationalDistance(**options),
        "relational_angle": losses.RelationalAngle(**options),
        "similarity_preserving": losses.SimilarityPreserving(**options),
        "probabilistic_transfer": losses.ProbabilisticTransfer(**options),
        "correlation_congruence": losses.CorrelationCongruence(**options),
    }
    if GLOBAL:  # Keras's own, which look at single samples
        penalties["logits"] = keras.distillation.LogitsDistillation(temperature=3.0)
        penalties["feature"] = keras.distillation.FeatureDistillation(loss="mse")
    teachers = [network(name, 24) for name in penalties]
    networks = [network(name) for name in penalties]
    student = side_by_side(networks)
    model = lgg.Distiller(
        side_by_side(teachers),
        student,
        [
            lgg.Penalty(loss, [(tap, tap)], name=name)
            for name, loss in penalties.items()
            for tap in [name if name in ("logits", "feature") else f"{name}/h1"]
        ],
    )
    return model, networks, cross_entropies(student)


def by_sums(options):
    """A student so narrow that replicas add up its factors, in place of gathering its rows."""
    student = network("narrow", 4)
    penalty = lgg.Penalty(losses.GraphDistillation(**options), [("h1", "h1")], name="of_sums")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return lgg.Distiller(network("teacher", 3), student, [penalty]), [student], loss


def in_parts(options):
    """A classifier that sees its part of the batch in parts again."""
    base = network("parts")
    penalty = lgg.Penalty(losses.GraphVariation(**options), ["h1", "h2"], 0.01, name="of_parts")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # On TensorFlow a replica parts its own samples, of which the last part has fewer; on JAX each
    # part is shared out.
    size = 4 if BACKEND == "jax" else 3
    return lgg.GeometryModel(base, [penalty], micro_batch=size), [base], loss


def builders():
    """What builds a model, its networks, and the losses that it is compiled with."""
    if SAMPLES % BATCH % REPLICAS:  # Keras's own mean over uneven replicas is another one
        return [embedders]
    return [embedders, penalized, distilled, by_sums, in_parts]


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


def train(build, *, split=False):
    """By network its weights, and the last logs; with ``split``, a process brings its part."""
    model, networks, loss = build({"global_graph": GLOBAL})
    # JAX must compile a step that several processes share; what TensorFlow compiles it would not
    # use again.
    jit_compile = "auto" if ARGS.xla or BACKEND == "jax" else False
    model.compile(keras.optimizers.SGD(0.003), loss, jit_compile=jit_compile)
    batch = SAMPLES if build is by_sums else BATCH
    if BACKEND == "tensorflow":
        data = tf.data.Dataset.from_tensor_slices((X, targets(loss)))
        arguments = {"x": data.batch(batch, drop_remainder=SAMPLES % batch == 0)}
    else:
        part = batch // REPLICAS if split else batch
        mine = np.arange(SAMPLES) % batch // part == (ARGS.process if split else 0)
        arguments = {"x": X[mine], "y": targets(loss, mine), "batch_size": part}
    history = model.fit(**arguments, epochs=EPOCHS, shuffle=False, verbose=0).history
    weights = {each.name: each.get_weights() for each in networks}
    if GLOBAL:
        weights[f"all {build.__name__}"] = model.get_weights()
    return weights, {name: values[-1] for name, values in history.items()}


def targets(loss, mine=slice(None)):
    return dict.fromkeys(loss, Y[mine]) if isinstance(loss, dict) else Y[mine]


def _relative(a, b):
    """The difference of two arrays, by their norms."""
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12))


def eager_loss():
    """A loss of arrays that lie in several processes, with nothing compiled."""
    import jax

    def spread(array):
        mine = np.split(array[:BATCH], REPLICAS)[ARGS.process]
        return jax.make_array_from_process_local_data(sharding, mine)

    mesh = jax.sharding.Mesh(np.array(jax.devices()), "batch")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    loss = losses.GraphSmoothness()
    return [float(loss(*arrays)) for arrays in ((Y[:BATCH], X[:BATCH]), (spread(Y), spread(X)))]


def main():
    if ARGS.process is not None:
        keras.distribution.initialize(f"127.0.0.1:{ARGS.port}", REPLICAS, ARGS.process)
    report, logs, known = {}, {}, {}
    path = ARGS.known and pathlib.Path(ARGS.known)
    if path and path.exists():
        known = pickle.loads(path.read_bytes())
    for build in builders():
        if ARGS.only and build.__name__ not in ARGS.only:
            continue
        key = build.__name__
        if key not in known:
            known[key] = train(build)
        one, one_logs = known[key]
        with replicas():
            several, several_logs = train(build, split=ARGS.process is not None)
        for name, weights in several.items():
            pairs = zip(one[name], weights, strict=True)
            report[name] = max(_relative(a, b) for a, b in pairs)
        logs[key] = one_logs, several_logs
    if ARGS.process is not None:
        logs["eager"] = [{"loss": value} for value in eager_loss()]
    if path and not path.exists():
        path.write_bytes(pickle.dumps(known))
    print(json.dumps({"apart": report, "logs": logs}))


if __name__ == "__main__":
    main()
