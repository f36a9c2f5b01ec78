"""From `fit` to the first step: what tracing and compiling cost, with penalties and without."""

import functools
import gc
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

import keras_lgg as lgg
from benchmarks.steps import BATCH, IMAGE, resnet18
from keras_lgg.graphs import tracing

BUILDS = 3  # of each network


def resnet50(width=4):
    """Stages of 3, 4, 6 and 3 bottlenecks, for small images."""
    inputs = keras.Input(IMAGE)
    x = _convolution(inputs, 4 * width, 3)
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            strides = 2 if stage and block == 0 else 1
            x = _bottleneck(x, width * 2**stage, strides, is_first=block == 0)
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


def _bottleneck(x, width, strides, *, is_first):
    y = _convolution(_convolution(x, width, 1), width, 3, strides)
    y = _convolution(y, 4 * width, 1, has_relu=False)
    if is_first:
        x = _convolution(x, 4 * width, 1, strides, has_relu=False)
    return keras.layers.ReLU()(keras.layers.Add()([x, y]))


def _convolution(x, filters, size, strides=1, *, has_relu=True):
    x = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.layers.ReLU()(x) if has_relu else x


def vit_b(width=96):
    """Twelve blocks of twelve heads, of KerasHub."""
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=IMAGE,
        patch_size=8,
        num_layers=12,
        num_heads=12,
        hidden_dim=width,
        mlp_dim=4 * width,
    )
    pooled = keras.layers.GlobalAveragePooling1D()(backbone.output)
    return keras.Model(backbone.input, keras.layers.Dense(10)(pooled))


def _last_sums(model, count):
    kinds = keras.layers.Conv2D, keras.layers.Add, keras.layers.Dense
    return [layer.name for layer in model.layers if isinstance(layer, kinds)][-count - 1 : -1]


def _blocks(model, count):
    paths = lgg.layer_paths(model, "*transformer_block_*")
    return [path for path in paths if path.count("/") == 1][-count:]


class Network(NamedTuple):
    """How it is built, so narrow that its steps take no time to speak of; and what is tapped."""

    build: Callable
    names: Callable  # of a model and a count
    taps: int  # of the `GeometryModel`
    pairs: int  # of the `Distiller`


NETWORKS = {
    "PreActResNet18": Network(functools.partial(resnet18, width=4), _last_sums, 16, 8),
    "ResNet50": Network(resnet50, _last_sums, 32, 16),
    "ViT-B": Network(vit_b, _blocks, 12, 12),
}


def first_steps(network, *, builds=BUILDS, jit):
    """Rows: model, seconds before the first step, and how many times those of plain Keras.

    Args:
        network: `Network`.
        builds: Of each model, in turns; the times are medians.
        jit: As in `keras.Model.compile`.
    """
    build, names, taps, pairs = network
    makes = {
        "plain": build,
        "teacher": build,
        "GeometryModel": lambda: _penalized(build(), lambda model: names(model, taps)),
        "Distiller": lambda: _distilled(build(), build(), lambda model: names(model, pairs)),
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


def _penalized(base, names):
    loss = lgg.losses.SmoothnessVariation(power=2, num_classes=10)
    return lgg.GeometryModel(base, [lgg.Penalty(loss, names(base), weight=1e-5)])


def _distilled(teacher, student, names):
    # Keras numbers the layers of each build anew.
    pairs = list(zip(names(teacher), names(student), strict=True))
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
