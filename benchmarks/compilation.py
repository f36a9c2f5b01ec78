"""From `fit` to the first step: what tracing and compiling cost, with penalties and without."""

import functools
import gc
import time

import keras
import numpy as np

import keras_lgg as lgg
from benchmarks.steps import BATCH, resnet18
from keras_lgg.graphs import tracing

BUILDS = 3  # of each network
# So narrow that the steps themselves take no time to speak of; they are traced no sooner for it.
narrow_resnet18 = functools.partial(resnet18, width=4)


def first_steps(build=narrow_resnet18, *, pairs=8, taps=16, builds=BUILDS, jit):
    """Rows: model, seconds before the first step, and how many times those of plain Keras.

    Args:
        build: Makes the network, whose convolutions and sums are tapped, the last of them.
        pairs: Taps of the `Distiller`.
        taps: Taps of the `GeometryModel`.
        builds: Of each network, in turns; the times are medians.
        jit: As in `keras.Model.compile`.
    """
    makes = {
        "plain": build,
        "teacher": build,
        "GeometryModel": lambda: _penalized(build(), taps),
        "Distiller": lambda: _distilled(build(), build(), pairs),
    }
    _seconds("plain", build(), jit)  # what a process does once
    times = {name: [] for name in makes}
    for _ in range(builds):
        for name, make in makes.items():
            times[name].append(_seconds(name, make(), jit))
    plain, teacher, penalized, distilled = (float(np.median(t)) for t in times.values())
    for name, seconds, base in (
        ("plain", plain, plain),
        (f"GeometryModel, {taps} taps", penalized, plain),
        ("student + teacher", plain + teacher, plain + teacher),
        (f"Distiller, {pairs} pairs", distilled, plain + teacher),
    ):
        yield {"model": name, "s": f"{seconds:.3g}", "ratio": f"{seconds / base:.2f}"}


def _names(model, count):
    kinds = keras.layers.Conv2D, keras.layers.Add, keras.layers.Dense
    return [layer.name for layer in model.layers if isinstance(layer, kinds)][-count - 1 : -1]


def _penalized(base, count):
    loss = lgg.losses.SmoothnessVariation(power=2, num_classes=10)
    return lgg.GeometryModel(base, [lgg.Penalty(loss, _names(base, count), weight=1e-5)])


def _distilled(teacher, student, count):
    # Keras numbers the layers of each build anew.
    pairs = list(zip(_names(teacher, count), _names(student, count), strict=True))
    penalty = lgg.Penalty(lgg.losses.GraphDistillation(), pairs, weight=25.0)
    return lgg.Distiller(teacher, student, [penalty])


def _seconds(name, model, jit):
    """Seconds by which the first step, or a teacher's first pass, takes longer than the second."""
    tracing.forget()
    gc.collect()
    gc.freeze()  # garbage of the builds before is not looked for within this one's time
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, *model.input_shape[1:])).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=jit)
    if name == "teacher":
        first, second = (_timed(model.predict, x) for _ in range(2))
    else:
        first, second = (_timed(model.fit, x, np.arange(BATCH) % 10) for _ in range(2))
    gc.unfreeze()
    return first - second


def _timed(method, *data):
    begin = time.perf_counter()
    method(*data, batch_size=BATCH, verbose=0)
    return time.perf_counter() - begin
