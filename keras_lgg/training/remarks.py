"""Warnings about a training that looks wrong, which `fit` gives in its first steps."""

import itertools
import warnings

import keras
import numpy as np

from keras_lgg.losses.base import GeometryLoss
from keras_lgg.losses.cross_batch import CrossBatch
from keras_lgg.training.internals import numpy_of
from keras_lgg.training.penalties import default_weight

FAR = 1000.0  # times more, or less, than the loss of the task
ROUNDING = 1e-6  # of a sum in float32
FEW = 4  # samples by which taps are compared
# Layers whose outputs are unbounded, unless an activation bounds them.
UNBOUNDED = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
)
BOUNDED = {"sigmoid", "softmax", "tanh", "softsign", "hard_sigmoid", "hard_tanh", "relu6"}


def warn(remark):
    """Warn of a remark, if there is one, at the call of `fit`."""
    if remark is not None:
        warnings.warn(remark, stacklevel=2)


def far_off(penalty, weight, share, task, n, *, at_last):
    """A remark if a penalty is far from the loss of the task, else ``None``.

    Args:
        penalty: A `Penalty` with a fixed weight.
        weight: The weight that it has in this batch.
        share: What it adds to the total loss.
        task: The rest of the total loss.
        n: Size of the batch.
        at_last: Whether this is the last look; before, a penalty may be small.
    """
    # What is left of a total may be only its rounding error.
    task = max(abs(task), ROUNDING * share)
    has_default, default = isinstance(penalty.loss, GeometryLoss), default_weight(penalty.loss, n)
    far = share > FAR * task
    # Even with a good weight, a penalty adds little if what it measures is still to be learnt.
    is_low = weight < default / 10 or not has_default
    slight = at_last and is_low and 0 < share < task / FAR
    if not far and not slight:
        return None
    if has_default and not np.isclose(weight, default):
        advice = f"Leave out the weight, for the default of this loss, {default:.2g} at n = {n}"
    else:
        advice = f"Try weight={0.1 * task / (share / weight):.1g}"
    verb = "drowns the loss of the task" if far else "adds next to nothing to the loss of the task"
    return (
        f"The penalty '{penalty.name}' {verb}. Expected about a tenth of it. Received: {share:.3g} "
        f'beside {task:.3g}, with the weight {weight:.3g}. {advice}, or set weight="balanced".'
    )


def too_few_for_k(penalty, n):
    """A remark if a batch has at most k other samples for each sample, else ``None``."""
    k = getattr(penalty.loss, "_options", {}).get("k")
    nodes = n + (penalty.loss.size if isinstance(penalty.loss, CrossBatch) else 0)
    if k is None or k < nodes - 1:
        return None
    return (
        f"The penalty '{penalty.name}' keeps all edges of its graph. Expected more samples in a "
        f"batch than k + 1. Received: k={k} and {nodes} samples. Take larger batches, or a smaller "
        "k."
    )


def one_class(penalty, labels, batch):
    """A remark if all labels are the same, else ``None``.

    Args:
        penalty: A `Penalty` that reads classes.
        labels: Class numbers ``(n,)``, as an array.
        batch: Words for where they come from.
    """
    labels = labels[labels != penalty.loss._options["ignore_class"]]
    if len(labels) < 2 or (labels != labels[0]).any():
        return None
    return (
        f"The penalty '{penalty.name}' sees one class. Expected several in each batch. Received: "
        f"the label {labels[0]} alone in {batch}. Shuffle the data, or see "
        "lgg.datasets.balanced_batches."
    )


def unbounded_embeddings(plan):
    """A remark for each penalty that a network can make small by growing its embedding."""
    for penalty in plan.penalties:
        loss = penalty.loss.loss if isinstance(penalty.loss, CrossBatch) else penalty.loss
        if not getattr(loss, "grows", False):
            continue
        for layer in plan.tapped_layers(penalty):
            if _is_unbounded(layer):
                yield (
                    f"The penalty '{penalty.name}' can be won by growing the embedding. Expected "
                    f"one of a bounded scale. Received: what the {type(layer).__name__} "
                    f"'{layer.name}' returns. Follow it by a keras.layers.UnitNormalization(), or "
                    "by a BatchNormalization(scale=False, center=False), and tap that."
                )


def _is_unbounded(layer):
    if not isinstance(layer, UNBOUNDED):
        return False
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    return activation not in BOUNDED and getattr(layer, "max_value", None) is None


def repeated_taps(plan, few):
    """A remark for each penalty with two taps that return the same.

    Args:
        plan: A `Plan`.
        few: Some samples, as arrays; or ``None``, to compare layers by their names only.
    """
    across = [getattr(penalty.loss, "across_layers", False) for penalty in plan.penalties]
    views = plan.inferred_views(few) if few is not None and any(across) else None
    for i, penalty in enumerate(plan.penalties):
        if not isinstance(penalty.taps, list):
            continue
        compared = penalty.taps
        if views is not None and across[i]:
            compared = [numpy_of(view.vectors) for view in views[i]]
            compared = [x.reshape(len(x), -1) for x in compared]
        for (a, x), (b, y) in itertools.combinations(zip(penalty.taps, compared, strict=True), 2):
            if np.array_equal(x, y):
                yield (
                    f"The penalty '{penalty.name}' taps the same twice. Expected layers that "
                    f"return different representations. Received: {a!r} and {b!r}. Leave out one "
                    "of them."
                )
                break


def few_samples(x, model):
    """Some samples of the data for `fit`, or ``None`` if these are not arrays at hand."""
    flat = keras.tree.flatten(x)
    if not model.built or not flat or not all(isinstance(a, np.ndarray) for a in flat):
        return None
    strategy = getattr(model, "distribute_strategy", None)
    is_shared = strategy is not None and strategy.num_replicas_in_sync > 1
    if is_shared or keras.distribution.distribution() is not None:
        return None
    if not all(a.dtype.kind in "fiub" for a in flat):
        return None
    return keras.tree.map_structure(lambda a: a[:FEW], x)
