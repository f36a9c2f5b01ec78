"""What travels between two replicas for a loss and its gradients: sums over samples, or all rows.

python -m benchmarks.replicas 4    # on the CPU as two devices, so many shapes; JSON
"""

import contextlib
import functools
import json
import math
import os
import re
import subprocess
import sys
from unittest import mock

REPLICAS = 2
# n, width of the representations (of the teacher as of the student), classes.
SHAPES = ((256, 64, 10), (1024, 64, 10), (8192, 64, 10), (8192, 512, 100))
TYPES = {"f64": 8, "f32": 4, "s32": 4, "pred": 1}


def traffic(count=None):
    """Rows: loss, sizes, KiB by sums and by rows. A process of its own, which has two devices."""
    command = [sys.executable, "-m", "benchmarks.replicas", str(count or len(SHAPES))]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr[-3000:])
    yield from json.loads(result.stdout.splitlines()[-1])


def cases(n, d, classes):
    """By name: a loss of labels, a teacher and a student."""
    from keras_lgg import losses

    gkd, variation = losses.GraphDistillation(), losses.GraphVariation()
    smoothness = losses.SmoothnessVariation(power=2, num_classes=classes)
    target = losses.TargetGraph(num_classes=classes)
    return {
        "smoothness variation, p = 2": lambda y, t, s: smoothness(y, [t, s]),
        "GKD": lambda y, t, s: gkd(t, s),
        "graph variation": lambda y, t, s: variation([t, s]),
        "target graph": lambda y, t, s: target(y, s),
    }


@contextlib.contextmanager
def all_rows():
    """The losses as they are where sums do not suffice: on JAX, of pairs."""
    from keras_lgg.graphs import differences, functions, tracing
    from keras_lgg.losses import base, distillation, embedding, variation

    with contextlib.ExitStack() as patches:

        def patch(*names, value):
            for module, name in names:
                patches.enter_context(mock.patch.object(module, name, value))

        classes = (
            base.GeometryLoss,
            distillation.GraphDistillation,
            embedding.TargetGraph,
            variation.GraphVariation,
            variation.SmoothnessVariation,
        )
        patch(*((loss, "_sums_suffice") for loss in classes), value=lambda *_: False)
        patch((differences, "factors_cost_less"), value=lambda *_, **__: False)
        patch(
            (functions, "_linear_smoothness"),
            value=lambda x, signal, **options: functions._full_smoothness(
                x, signal, linear=False, block=None, **options
            ),
        )
        tracing.forget()
        yield
    tracing.forget()


def on_tensorflow(loss, n, d, classes):
    """Bytes that one replica brings to the sums over all, forward and backward."""
    import numpy as np
    import tensorflow as tf

    brought = []
    all_reduce = tf.distribute.ReplicaContext.all_reduce

    def counted(context, operation, value, *args, **kwargs):
        if context.replica_id_in_sync_group == 0:
            sizes = [x.shape.num_elements() * x.dtype.size for x in tf.nest.flatten(value)]
            brought.append(sum(sizes))
        return all_reduce(context, operation, value, *args, **kwargs)

    def step():
        rng = np.random.default_rng(0)
        m = n // REPLICAS
        student, teacher = (
            tf.constant(np.abs(rng.normal(size=(m, d))).astype("float32")) for _ in range(2)
        )
        labels = tf.constant(rng.integers(0, classes, m).astype("int32"))
        with tf.GradientTape() as tape:
            tape.watch([teacher, student])
            value = loss(labels, teacher, student)
        return tape.gradient(value, [teacher, student])

    with mock.patch.object(tf.distribute.ReplicaContext, "all_reduce", counted):
        _strategy().run(step)
    return sum(brought)


@functools.cache
def _strategy():
    """One for all, since the keys of its collective operations begin anew with each."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])


def on_jax(loss, n, d, classes):
    """Bytes of the collective operations of the compiled program, beside what it skips."""
    import jax

    mesh = jax.sharding.Mesh(jax.devices(), ("batch",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    rows = jax.ShapeDtypeStruct((n, d), "float32", sharding=split)
    labels = jax.ShapeDtypeStruct((n,), "int32", sharding=split)
    step = jax.jit(jax.value_and_grad(loss, argnums=(1, 2)), out_shardings=(None, (split, split)))
    return collective_bytes(step.lower(labels, rows, rows).compile().as_text())


def collective_bytes(program):
    """Of a compiled program, without the branches that it takes where too much cancels."""
    total, is_entry = 0, False
    for line in program.splitlines():
        if line.endswith("{"):
            is_entry = line.startswith("ENTRY")
        found = re.search(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute)\(", line)
        if found and is_entry:
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1]):
                total += TYPES[kind] * math.prod(int(size) for size in shape.split(",") if size)
    return total


def rows(shapes):
    import keras

    measure = on_tensorflow if keras.backend.backend() == "tensorflow" else on_jax
    for n, d, classes in shapes:
        for name, loss in cases(n, d, classes).items():
            found = measure(loss, n, d, classes) / 1024
            with all_rows():
                everything = measure(loss, n, d, classes) / 1024
            yield {
                "loss": name,
                "n": n,
                "d": d,
                "classes": classes,
                "KiB": f"{found:.3g}",
                "KiB of all rows": f"{everything:.3g}",
                "ratio": f"{found / everything:.2g}",
            }


def main():
    devices = f"--xla_force_host_platform_device_count={REPLICAS}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        made = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], made)
    print(json.dumps(list(rows(SHAPES[: int(sys.argv[1])]))))


if __name__ == "__main__":
    main()
