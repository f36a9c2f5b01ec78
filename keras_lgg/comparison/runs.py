"""The runs of a comparison: every variant with every seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.comparison.measures import Measure, measure
from keras_lgg.comparison.result import Comparison
from keras_lgg.robustness.perturbations import DataPerturbation, ModelPerturbation
from keras_lgg.training.models import network_of
from keras_lgg.training.penalties import Penalty, check_penalties, fresh, named_taps
from keras_lgg.types import Data, Samples

PLAIN = "plain"


def compare(
    build: Callable[[list[Penalty]], keras.Model] | None,
    penalties: Penalty
    | Sequence[Penalty]
    | Mapping[str, Penalty | Sequence[Penalty] | Callable[[], keras.Model] | None],
    data: Data,
    *,
    test_data: tuple[Samples, Samples],
    measures: Sequence[str | Measure | DataPerturbation | ModelPerturbation] = ("accuracy",),
    weights: Sequence[float] | None = None,
    seeds: int | Sequence[int] = 3,
    progress: bool = True,
    **fit_options: Any,
) -> Comparison:
    """Train a model with and without penalties, over several seeds, and measure the difference.

    With the same seed, all variants start from the same weights and see the same batches, provided
    that ``build`` makes their layers in the same order. Do not choose anything by the test data:
    choose weights on validation data first, for instance with `tuning.search_penalty_weights`.

    Args:
        build: Function ``build(penalties)`` that returns a compiled model with these penalties: a
            `GeometryModel`, a `Distiller`, or any other; for the empty list, the plain model.
            ``None`` if each variant builds its own.
        penalties: A `Penalty`, or a list of them, to compare with none; or a dict from the name of
            each variant to its penalties, or to a function without arguments that builds its own
            compiled model. The first variant is the baseline that the others are compared with.
        data: Training data: ``(x, y)``, ``(x, y, sample_weight)``, or anything else that
            `keras.Model.fit` takes as ``x``.
        test_data: ``(x, y)``, arrays by which nothing was chosen.
        measures: What to measure of the plain network that remains without the penalties. Names:
            ``"accuracy"`` (in a `Distiller` that of the student, also ``"student_accuracy"``),
            ``"noise_accuracy"`` (under Gaussian noise from 20 to 0 dB, for inputs in [0, 1]),
            ``"dropped_units_accuracy"`` (at the taps of the penalties), ``"mean_squared_error"``,
            and the results of `retrieval.evaluate`, such as ``"recall@1"``. Also perturbations of
            `keras_lgg.robustness`, and `Measure` objects.
        weights: With a single penalty: makes one variant for each of these weights. ``None`` keeps
            the penalty's own weight.
        seeds: The number of seeds, which then count from 0, or the seeds themselves.
        progress: Whether to show a progress bar over the epochs of all runs.
        **fit_options: Further arguments of `keras.Model.fit`, such as ``epochs``, ``batch_size``
            and ``callbacks``.

    Returns:
        `Comparison`.

    Raises:
        ValueError: If an argument has none of these forms, or ``build`` does not return a compiled
            model.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> def build(penalties):
        ...     layers = [keras.layers.Dense(8, "relu", name=name) for name in ("h1", "h2")]
        ...     head = keras.layers.Dense(3, "softmax")
        ...     model = keras.Sequential([keras.Input((4,)), *layers, head])
        ...     model = lgg.GeometryModel(model, penalties)
        ...     model.compile("adam", "sparse_categorical_crossentropy")
        ...     return model
        >>> penalty = lgg.Penalty(lgg.losses.GraphVariation(), ["h1", "h2"])
        >>> x, y = np.random.default_rng(0).random((60, 4)), np.arange(60) % 3
        >>> found = lgg.compare(
        ...     build,
        ...     penalty,
        ...     (x[:40], y[:40]),
        ...     test_data=(x[40:], y[40:]),
        ...     seeds=2,
        ...     progress=False,
        ... )
        >>> list(found.values), found.values["plain"]["accuracy"].shape
        (['plain', 'graph_variation'], (2,))
    """
    variants = _variants(penalties, weights)
    if build is None and not all(map(callable, variants.values())):
        expected = "a function from penalties to a compiled model, where variants are penalties"
        raise checks.invalid("build", expected, "None")
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seeds:
        raise checks.invalid("seeds", "at least one", repr(seeds))
    taps = named_taps(p for each in variants.values() if not callable(each) for p in each)
    found = [measure(each, taps) for each in measures]
    if not found or len({m.name for m in found}) < len(found):
        raise checks.invalid("measures", "at least one, of different names", repr(measures))
    x, y = test_data
    bar = _Bar(len(variants) * len(seeds) * fit_options.get("epochs", 1)) if progress else None
    values: dict[str, dict[str, list[float]]] = {
        name: {m.name: [] for m in found} for name in variants
    }
    for seed in seeds:
        for name, variant in variants.items():
            network = _trained(build, variant, data, seed, bar, fit_options)
            for m in found:
                values[name][m.name].append(m.of(network, x, y))
    arrays = {
        name: {measured: np.array(each) for measured, each in of_variant.items()}
        for name, of_variant in values.items()
    }
    return Comparison(arrays, found, seeds)


def _variants(penalties, weights):
    """Dict from the name of each variant to its penalties, or to the function that builds it."""
    if weights is not None:
        if not isinstance(penalties, Penalty):
            raise checks.invalid("weights", "one lgg.Penalty to give them to", repr(penalties))
        named = {f"weight {weight:g}": [fresh(penalties, weight=weight)] for weight in weights}
        return {PLAIN: [], **named}
    if not isinstance(penalties, Mapping):
        penalties = check_penalties(penalties)
        return {PLAIN: [], ", ".join(penalty.name for penalty in penalties): penalties}
    variants = {
        str(name): each if callable(each) else check_penalties(each or [])
        for name, each in penalties.items()
    }
    if len(variants) < 2:
        raise checks.invalid("penalties", "at least two variants in a dict", repr(penalties))
    return variants


def _trained(build, variant, data, seed, bar, fit_options):
    """Train the model of one run; returns its plain network."""
    keras.utils.set_random_seed(seed)
    model = variant() if callable(variant) else build([fresh(penalty) for penalty in variant])
    if not isinstance(model, keras.Model) or not model.compiled:
        expected = "a function that returns a compiled keras.Model"
        raise checks.invalid("build", expected, f"one that returned {model!r}")
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    options = {"verbose": 0, **fit_options}
    callbacks = keras.tree.flatten(options.pop("callbacks", None) or [])
    if bar is not None:
        callbacks = [*callbacks, bar]
    keras.utils.set_random_seed(seed)
    model.fit(x, y, sample_weight=sample_weight, callbacks=callbacks, **options)
    return network_of(model)


class _Bar(keras.callbacks.Callback):
    """One progress bar for the epochs of all runs."""

    def __init__(self, epochs):
        super().__init__()
        self._bar = keras.utils.Progbar(epochs, unit_name="epoch")

    def on_epoch_end(self, epoch, logs=None):
        self._bar.add(1)
