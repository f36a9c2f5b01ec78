"""Writes the saved files of version 0.1.0 beside itself, for tests/test_saved.py.

With that version installed, on TensorFlow: KERAS_BACKEND=tensorflow python make.py

The files were written once. Run it again to know how they came about, never to replace them: a
later version must load what this one wrote. `arrays.npz` holds, by the name of the file and a
key: the inputs ``x0, x1, ...``; the targets ``y``, or ``y:<output>``; the outputs in inference
``output0, ...``; what ``evaluate`` returned, ``evaluate:<metric>``; the weights of the penalties,
``weight:<penalty or layer>``; and, under ``next_output`` and ``next_weight``, what they are after
one more step, which tells whether the state of the training was saved.
"""

import os
import pathlib
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import keras_lgg as lgg
from keras_lgg import losses, manifolds, relative

FOLDER = pathlib.Path(__file__).parent
BATCH = 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH, 5)).astype("float32")
LABELS = np.arange(BATCH, dtype="int32") % 3
TARGET_GRAPH = (LABELS[:, None] == LABELS).astype("float32")
IMAGES = RNG.random((BATCH, 8, 8, 1)).astype("float32")
XE = "sparse_categorical_crossentropy"


def network(width=4, name=None):
    """Two hidden layers in a nested model, whose representations are positive: none is 0."""
    backbone = [
        keras.Input((5,)),
        layers.Dense(width, "softplus", name="h1"),
        layers.BatchNormalization(name="norm"),
        layers.Dense(width, "softplus", name="h2"),
    ]
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.Sequential(backbone, name="backbone"),
            layers.Dense(3, "softmax", name="head"),
        ],
        name=name,
    )


def ready(model, optimizer=None, loss=XE, metrics="accuracy"):
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    metrics = [metrics] if isinstance(metrics, str) else metrics
    model.compile(optimizer, loss, metrics=metrics, jit_compile=False)
    return model


def distiller(penalties):
    return ready(lgg.Distiller(network(6, "teacher"), network(name="student"), penalties))


def functional(representation, inputs):
    """A compiled classifier on a representation."""
    outputs = layers.Dense(3, "softmax", name="head")(representation)
    return ready(keras.Model(inputs, outputs))


def geometry_fixed():
    penalties = [
        lgg.Penalty(
            losses.SmoothnessVariation(power=2), ["backbone/h1", "backbone/h2"], weight=1e-3
        ),
        lgg.Penalty(losses.GraphSmoothness(), weight=0.02),
        lgg.Penalty(
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "backbone/h2",
            name="early_exit",
        ),
    ]
    return ready(lgg.GeometryModel(network(), penalties, name="fixed"))


def geometry_balanced():
    penalties = [
        lgg.Penalty(
            losses.GraphVariation(), ["backbone/h1", "backbone/h2"], "balanced", fraction=0.3
        ),
        lgg.Penalty(losses.GraphSmoothness(), weight="balanced"),
    ]
    return ready(lgg.GeometryModel(network(), penalties), keras.optimizers.SGD(0.1, momentum=0.9))


def geometry_labels():
    """Two targets, one of which holds the labels."""
    x = keras.Input((5,))
    h = layers.Dense(4, "tanh", name="h")(x)
    outputs = {
        "kind": layers.Dense(3, "softmax", name="kind")(h),
        "size": layers.Dense(1, name="size")(h),
    }
    penalty = lgg.Penalty(losses.GraphSmoothness(), "h", 0.05, "apart", labels="kind")
    model = lgg.GeometryModel(keras.Model(x, outputs), [penalty])
    return ready(model, loss={"kind": XE, "size": "mse"}, metrics={"kind": "accuracy"})


def distiller_with_teacher():
    penalties = [
        lgg.Penalty(
            losses.GraphDistillation(),
            [("backbone/h1", "backbone/h1"), ("backbone/h2", "backbone/h2")],
            weight=25.0,
        ),
        lgg.Penalty(losses.GraphDistillation(), weight="balanced", fraction=0.2, name="balanced"),
        lgg.Penalty(keras.distillation.LogitsDistillation(temperature=2.0), weight=0.5),
        lgg.Penalty(
            keras.distillation.FeatureDistillation(
                "mse", teacher_layer_name="head", student_layer_name="head"
            )
        ),
    ]
    return distiller(penalties)


def losses_of_distillation():
    pairs = [("backbone/h2", "backbone/h2")]
    penalties = [
        lgg.Penalty(
            losses.GraphDistillation(
                k=3,
                power=2,
                pairs="inter",
                num_classes=3,
                block_size=9,
                reduction="sum_over_batch_size",
                name="gkd",
                dtype="float64",
                global_graph=False,
            ),
            pairs,
        ),
        lgg.Penalty(
            losses.RelationalDistance(
                block_size=8, reduction="sum", name="rkd_d", dtype="float64", global_graph=False
            ),
            pairs,
        ),
        lgg.Penalty(
            losses.RelationalAngle(
                arms=4, reduction=None, name="rkd_a", dtype="float64", global_graph=False
            ),
            pairs,
        ),
    ]
    return distiller(penalties)


def losses_on_labels():
    penalties = [
        lgg.Penalty(
            losses.GraphSmoothness(
                alpha=0.5,
                k=3,
                block_size=8,
                reduction="mean_with_sample_weight",
                name="gsl",
                dtype="float64",
                global_graph=False,
            ),
            "backbone/h2",
        ),
        lgg.Penalty(
            losses.TargetGraph(
                affinity=[[1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.0]],
                metric="rbf",
                alpha=0.3,
                num_classes=3,
                block_size=9,
                reduction="mean",
                name="hierarchy",
                dtype="float64",
                global_graph=False,
            ),
            "backbone/h2",
        ),
        lgg.Penalty(
            relative.DensificationLoss(beta=2.0, name="dense", dtype="float64", global_graph=False),
            "backbone/h2",
        ),
    ]
    return ready(lgg.GeometryModel(network(), penalties))


def losses_across_layers():
    taps = ["backbone/h1", "backbone/h2", "head"]
    penalties = [
        lgg.Penalty(
            losses.SmoothnessVariation(
                power=2,
                k=3,
                num_classes=3,
                relative=True,
                block_size=9,
                name="laplacian",
                dtype="float64",
                global_graph=False,
            ),
            taps,
        ),
        lgg.Penalty(
            losses.GraphVariation(
                k=3, block_size=8, name="graphs", dtype="float64", global_graph=False
            ),
            taps,
        ),
    ]
    return ready(lgg.GeometryModel(network(), penalties))


def losses_compiled():
    """Losses of the package in the place of those of the task."""
    x = keras.Input((5,))
    outputs = {
        "apart": layers.UnitNormalization(name="apart")(layers.Dense(4, name="h")(x)),
        "dense": layers.Dense(3, name="dense")(x),
    }
    loss = {
        "apart": losses.GraphSmoothness(alpha=2.0, k=4),
        "dense": relative.DensificationLoss(beta=0.5),
    }
    optimizer = keras.optimizers.RMSprop(0.01, momentum=0.5)
    return ready(keras.Model(x, outputs), optimizer, loss, metrics=None)


def layer_plain():
    x = keras.Input((5,))
    h1 = layers.Dense(4, "softplus")(x)
    h2 = layers.Dense(4, "softplus")(h1)
    penalty = lgg.layers.GeometryPenalty(losses.GraphVariation(k=3), weight=0.1, name="plain")
    return functional(penalty([h1, h2]), x)


def layer_labels():
    x, labels = keras.Input((5,), name="x"), keras.Input((), dtype="int32", name="labels")
    h = layers.Dense(4, "tanh")(x)
    fixed = lgg.layers.GeometryPenalty(losses.GraphSmoothness(alpha=0.5), 0.2, name="fixed")
    balanced = lgg.layers.GeometryPenalty(
        losses.TargetGraph(num_classes=3), "balanced", fraction=0.3, name="balanced"
    )
    return functional(balanced(fixed(h, labels=labels), labels=labels), [x, labels])


def layer_graph():
    """The wanted graph as an input: the form of `TargetGraph` that takes no affinity."""
    x, graph = keras.Input((5,), name="x"), keras.Input((BATCH,), name="graph")
    h = layers.Dense(4, "tanh")(x)
    loss = losses.TargetGraph(form="graph", metric="exponential", name="wanted")
    penalty = lgg.layers.GeometryPenalty(loss, weight=0.5, name="penalty")
    return functional(penalty(h, labels=graph), [x, graph])


def relative_fixed():
    codes = lgg.layers.RelativeRepresentation(
        RNG.normal(size=(6, 4)),
        similarity=["cosine", "lp"],
        normalization="standardize",
        pool="mean",
        p=3.0,
        bin_size=0.1,
        quantization="smooth_steps",
        anchor_labels=[0, 1, 1, 0, 2, 2],
        indices=[3, 1, 4, 5, 9, 2],
        name="codes",
    )
    x = keras.Input((5,))
    return functional(codes(layers.Dense(4)(x)), x)


def relative_stacked():
    codes = lgg.layers.RelativeRepresentation(
        RNG.normal(size=(6, 3)),
        similarity=["basis_change", "angular", "l1"],
        normalization="whiten",
        pool="stack",
        name="codes",
    )
    x = keras.Input((5,))
    return functional(layers.Flatten()(codes(layers.Dense(3)(x))), x)


def relative_encoder():
    """The anchors are encoded at every third step, and kept in between: at the next one, too."""
    encoder = network().get_layer("backbone")
    codes = lgg.layers.RelativeRepresentation(
        X[:6],
        encoder=encoder,
        similarity=["euclidean", "inner"],
        normalization="center",
        pool="sum",
        anchor_labels=[2, 1, 0, 0, 1, 2],
        refresh_every=3,
        anchor_training=False,
        name="codes",
    )
    x = keras.Input((5,))
    return functional(codes(x), x)


def relative_encoder_inherit():
    encoder = network().get_layer("backbone")
    codes = lgg.layers.RelativeRepresentation(X[:4], encoder=encoder, bin_size=0.05, name="codes")
    x = keras.Input((5,))
    return functional(codes(x), x)


def relative_call():
    x, anchors = keras.Input((5,), name="x"), keras.Input(batch_shape=(BATCH, 4), name="anchors")
    codes = lgg.layers.RelativeRepresentation(
        similarity="angular", anchor_labels=[0, 0, 1, 1, 2, 2, 3, 3], indices=range(8), name="codes"
    )
    return functional(codes(layers.Dense(4)(x), anchors=anchors), [x, anchors])


def parseval():
    x = keras.Input((5,))
    constraint = lgg.constraints.Parseval(beta=0.2)
    return functional(layers.Dense(4, "tanh", kernel_constraint=constraint, name="tight")(x), x)


def cae():
    return with_few_filters(manifolds.build_cae((8, 8, 1), channels=4))


def dae():
    options = {"use_bias": True, "latent_activation": "tanh", "noise": 0.3, "seed": 1}
    return with_few_filters(manifolds.build_dae((8, 8, 1), channels=4, **options))


def vae():
    options = {"latent_activation": None, "beta": 0.5, "seed": 2}
    return with_few_filters(manifolds.build_vae((8, 8, 1), channels=4, **options))


def with_few_filters(model):
    """The model with zeros in place of all but 4 filters: they stay 0, and compress to nothing."""
    for v in model.trainable_variables:
        kernel = keras.ops.convert_to_numpy(v).copy()
        kernel[..., 4:] = 0.0
        if kernel.ndim == 4:
            kernel[:, :, 4:] = 0.0
        v.assign(kernel)
    return model


INPUTS = {
    "layer_labels": [X, LABELS],
    "layer_graph": [X, TARGET_GRAPH],
    "relative_call": [X, RNG.normal(size=(BATCH, 4)).astype("float32")],
    "cae": [IMAGES],
    "dae": [IMAGES],
    "vae": [IMAGES],
}
TARGETS = {
    "geometry_labels": {"kind": LABELS, "size": X[:, :1]},
    "losses_compiled": {"apart": LABELS, "dense": LABELS},
    "cae": IMAGES,
    "dae": IMAGES,
    "vae": IMAGES,
}
MAKERS = [
    geometry_fixed,
    geometry_balanced,
    geometry_labels,
    distiller_with_teacher,
    losses_of_distillation,
    losses_on_labels,
    losses_across_layers,
    losses_compiled,
    layer_plain,
    layer_labels,
    layer_graph,
    relative_fixed,
    relative_stacked,
    relative_encoder,
    relative_encoder_inherit,
    relative_call,
    parseval,
    cae,
    dae,
    vae,
]


def outputs(model, x):
    """What the model gives in inference; of the variational one, what does not depend on draws."""
    if model.name != "vae":
        return keras.tree.flatten(model.predict(x, BATCH, verbose=0))
    codes = model.get_layer("encoder").predict(x, BATCH, verbose=0)
    return [*codes, model.get_layer("decoder").predict(codes[0], BATCH, verbose=0)]


def penalties(model):
    """What has a weight: the penalties of a model, and the layers that are penalties."""
    return [
        *getattr(model, "penalties", []),
        *(x for x in model._flatten_layers() if isinstance(x, lgg.layers.GeometryPenalty)),
    ]


def step(model, x, y):
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)


def state(model, x, prefix=""):
    """Arrays of what training changes."""
    found = {f"{prefix}output{i}": array for i, array in enumerate(outputs(model, x))}
    weights = {p.name: keras.ops.convert_to_numpy(p.weight) for p in penalties(model)}
    return found | {f"{prefix}weight:{name}": weight for name, weight in weights.items()}


def saved(make):
    """The arrays of a model, which is trained and written."""
    keras.utils.set_random_seed(0)
    name, model = make.__name__, make()
    model.run_eagerly = True  # to trace a few steps takes longer than they do; it is not saved
    inputs, y = INPUTS.get(name, [X]), TARGETS.get(name, LABELS)
    x = inputs[0] if len(inputs) == 1 else inputs
    for _ in range(2):
        step(model, x, y)
    arrays = {f"x{i}": array for i, array in enumerate(inputs)}
    arrays |= {f"y:{output}": y[output] for output in y} if isinstance(y, dict) else {"y": y}
    arrays |= state(model, x)
    if name != "vae":  # which draws samples
        found = model.evaluate(x, y, batch_size=BATCH, verbose=0, return_dict=True)
        arrays |= {f"evaluate:{key}": np.float32(value) for key, value in found.items()}
    write(model, name)
    if make is distiller_with_teacher:
        write(model, "distiller_without_teacher", include_teacher=False)
    if name not in ("dae", "vae"):  # which draw noise in training
        step(model, x, y)
        arrays |= state(model, x, "next_")
    return arrays


def write(model, name, **options):
    """The file of a model as Keras writes it, but with its members compressed."""
    path = FOLDER / f"{name}.keras"
    model.save(path, **options)
    with zipfile.ZipFile(path) as file:
        members = {member: file.read(member) for member in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for member, content in members.items():
            file.writestr(member, content)


def main():
    if (lgg.__version__, keras.backend.backend()) != (FOLDER.name, "tensorflow"):
        raise SystemExit(f"Expected keras_lgg {FOLDER.name} on TensorFlow.")
    arrays = {make.__name__: saved(make) for make in MAKERS}
    arrays["distiller_without_teacher"] = arrays["distiller_with_teacher"]
    flat = {f"{name}/{key}": array for name in arrays for key, array in arrays[name].items()}
    np.savez_compressed(FOLDER / "arrays.npz", **flat)


if __name__ == "__main__":
    main()
