"""Whole training steps, through `fit`: with penalties against without."""

import functools

import keras
import numpy as np
from keras import layers

import keras_lgg as lgg
from benchmarks.timing import medians
from examples import networks

BATCH = 128
BUILDS = 3  # of each network
IMAGE = (32, 32, 3)


def three_block_resnet():
    """Widths 16, 32 and 64; a ReLU after the first convolution and one after each block."""
    inputs = keras.Input(IMAGE)
    x = networks.convolution(inputs, 16)
    opening = "stem"
    for i, width in enumerate((16, 32, 64), start=1):
        x = networks.preact_block(
            x, width, 1 if i == 1 else 2, None, opening=opening, name=f"block{i}"
        )
        opening = f"block{i}"
    return keras.Model(inputs, networks.head(x, 10, opening, None))


def mlp(width=512):
    hidden = [layers.Dense(width, "relu", name=f"hidden{i}") for i in (1, 2, 3)]
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10)])


resnet18 = functools.partial(networks.preact_resnet18, IMAGE, 10)
wide_resnet = functools.partial(networks.wide_resnet, IMAGE, 10, depth=28)
HIDDEN = ["hidden1", "hidden2", "hidden3"]
# By network: how it is built, its taps, and the steps that are timed at once.
PENALIZED = {
    "MLP 784-512-512-512-10, 3 taps": (mlp, HIDDEN, 20),
    "ResNet, 3 blocks of 16, 32, 64, 4 taps": (
        three_block_resnet,
        ["stem", "block1", "block2", "block3"],
        4,
    ),
    "PreActResNet18, 5 taps": (resnet18, ["stem", "block2", "block4", "block6", "block8"], 1),
}
# By networks: teacher, student, taps of both, steps.
DISTILLED = {
    "MLP, 512 to 128": (mlp, functools.partial(mlp, 128), HIDDEN, 20),
    "WideResNet28, width 1 to 0.5": (
        wide_resnet,
        functools.partial(wide_resnet, width=0.5),
        networks.GROUPS,
        2,
    ),
}


def geometry_steps(names=tuple(PENALIZED), *, jit, seconds):
    """Rows: network, milliseconds of a plain step, ratio of a `GeometryModel` step."""
    for name in names:
        runs = functools.partial(penalized, *PENALIZED[name], jit)
        base, ratios = relative(runs, ["plain"], seconds)
        yield {"network": name, "plain step, ms": f"{1e3 * base:.3g}", **ratios}


def distillation_steps(names=tuple(DISTILLED), *, jit, seconds):
    """Rows: networks, and ratios of distilling steps to a student's step plus a teacher's pass."""
    for name in names:
        runs = functools.partial(distilled, *DISTILLED[name], jit)
        base, ratios = relative(runs, ["student", "teacher"], seconds)
        yield {"networks": name, "student + teacher, ms": f"{1e3 * base:.3g}", **ratios}


def penalized(build, taps, steps, jit):
    """Trainings of new networks, by name, and the steps of each."""
    x, y = _data(build, steps)
    loss = lgg.losses.SmoothnessVariation(power=2, num_classes=10)
    models = {
        "plain": build(),
        "GeometryModel": lgg.GeometryModel(build(), [lgg.Penalty(loss, taps, weight=1e-5)]),
        "the same, not told whether losses are finite": _unwatched(build(), loss, taps),
    }
    return {name: _fit(model, x, y, jit) for name, model in models.items()}, steps


def _unwatched(base, loss, taps):
    model = lgg.GeometryModel(base, [lgg.Penalty(loss, taps, weight=1e-5)])
    model.not_finite.update_state = lambda *_: None
    return model


def distilled(build_teacher, build, taps, steps, jit, *, with_cache=True):
    """As `penalized`."""
    x, y = _data(build_teacher, steps)
    teacher, three, one = build_teacher(), _penalty(taps), _penalty(taps[-1:])
    models = {
        "student": build(),
        "Distiller, 3 taps": lgg.Distiller(teacher, build(), [three]),
        "Distiller, 1 tap": lgg.Distiller(teacher, build(), [one]),
        "keras.distillation, 1 feature": _keras_distiller(teacher, build(), taps[-1]),
    }
    runs = {name: _fit(model, x, y, jit) for name, model in models.items()}
    if with_cache:  # which takes TensorFlow
        cached = lgg.teacher_cache(teacher, [three], (x, y)).batch(BATCH, drop_remainder=True)
        without_teacher = lgg.Distiller(None, build(), [three])
        runs["Distiller, 3 taps from a cache"] = _fit(without_teacher, cached.cache(), None, jit)
    return {**runs, "teacher": _forward(teacher, x, jit)}, steps


def relative(runs, base, seconds):
    """Seconds of a step of the runs of `base` together, and the others relative to these.

    Networks are built anew several times, since one and the same step is up to a quarter faster
    or slower from one compilation to the next: medians, and the range.
    """
    bases, ratios = [], {}
    for _ in range(BUILDS):
        candidates, steps = runs()
        times = medians(candidates, seconds=seconds / BUILDS, least=3)
        bases.append(sum(times.pop(name) for name in base) / steps)
        for name, time in times.items():
            ratios.setdefault(name, []).append(time / steps / bases[-1])
    return np.median(bases), {
        name: f"{np.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for name, r in ratios.items()
    }


def _penalty(taps):
    loss = lgg.losses.GraphDistillation()
    return lgg.Penalty(loss, [(tap, tap) for tap in taps], weight=25.0)


def _keras_distiller(teacher, student, tap):
    """Keras's own, with one feature loss: pooled, since its losses want equal shapes."""

    def pooled(y_true, y_pred):
        return keras.ops.mean(
            keras.ops.square(keras.ops.mean(y_true, axis=-1) - keras.ops.mean(y_pred, axis=-1))
        )

    feature = keras.distillation.FeatureDistillation(
        loss=pooled, teacher_layer_name=tap, student_layer_name=tap
    )
    return keras.distillation.Distiller(
        teacher=teacher, student=student, distillation_losses=[feature]
    )


def _data(build, steps):
    rng = np.random.default_rng(0)
    shape = build().input_shape[1:]
    x = rng.normal(size=(BATCH * steps, *shape)).astype("float32")
    return x, rng.integers(0, 10, BATCH * steps)


def _fit(model, x, y, jit):
    """A function of no argument that trains for one epoch, for `medians`."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=jit)
    batch_size = None if y is None else BATCH
    return (lambda: model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0),)


def _forward(model, x, jit):
    model.compile(jit_compile=jit)
    return (lambda: model.predict(x, batch_size=BATCH, verbose=0),)
