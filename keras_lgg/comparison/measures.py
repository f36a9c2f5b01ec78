"""Measures of a trained network, by name."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.labels import classes_on_host
from keras_lgg.retrieval.evaluation import evaluate as retrieve
from keras_lgg.retrieval.evaluation import measure_names
from keras_lgg.robustness.corruptions import GaussianNoise
from keras_lgg.robustness.evaluation import are_distributions, evaluate
from keras_lgg.robustness.faults import DroppedUnits
from keras_lgg.robustness.perturbations import DataPerturbation, ModelPerturbation
from keras_lgg.types import Samples

BEST = ("max", "min")
LEVELS = (20, 15, 10, 5, 0)  # dB, of "noise_accuracy"
BATCH = 256


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number that says how good a trained network is, for `compare`.

    Args:
        name: Name of the measure, in tables and figures.
        value: Function ``value(network, x, y)`` of a plain Keras model and the test data, which
            returns the number.
        best: ``"max"`` if more is better, the default, or ``"min"`` if less is better.
        is_share: Whether the number is a share between 0 and 1, to be shown in percent.

    Example:
        >>> from keras_lgg.comparison import Measure
        >>> import numpy as np
        >>> def width(network, x, y):
        ...     return network.output_shape[-1]
        >>> Measure("width", width, best="min").name
        'width'
    """

    name: str
    value: Callable[[keras.Model, Samples, Samples], float]
    best: str = "max"
    is_share: bool = False

    def __post_init__(self) -> None:
        if not callable(self.value):
            raise checks.invalid("value", "a function value(network, x, y)", repr(self.value))
        checks.check_choice("best", self.best, BEST)

    def of(self, network: keras.Model, x: Samples, y: Samples) -> float:
        """The value as it is shown: in percent if it is a share."""
        value = float(self.value(network, x, y))
        return 100 * value if self.is_share else value


def measure(
    given: str | DataPerturbation | ModelPerturbation | Measure, taps: Sequence[str] = ()
) -> Measure:
    """The `Measure` that a name, a perturbation or a measure stands for.

    Args:
        given: ``"accuracy"``, also called ``"student_accuracy"``; ``"noise_accuracy"``, the mean
            over five levels of Gaussian noise on inputs in [0, 1], from 20 to 0 dB;
            ``"dropped_units_accuracy"``, the mean over `robustness.DroppedUnits` at ``taps``;
            ``"mean_squared_error"``; or a result of `retrieval.evaluate`, such as ``"recall@1"``,
            with the outputs as embeddings. Or a perturbation of `robustness`: the mean accuracy
            over its severities. Or a `Measure`.
        taps: The layers in which units are dropped.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(given, Measure):
        return given
    if isinstance(given, DataPerturbation | ModelPerturbation):
        return Measure(f"accuracy, {given.name}", _under(given), is_share=True)
    if given in ("accuracy", "student_accuracy"):
        return Measure(given, _accuracy, is_share=True)
    if given == "noise_accuracy":
        return Measure(given, _under(GaussianNoise(snr=LEVELS)), is_share=True)
    if given == "dropped_units_accuracy":
        return Measure(given, _under(DroppedUnits(_named(taps))), is_share=True)
    if given == "mean_squared_error":
        return Measure(given, _squared_error, best="min")
    if is_of_retrieval(given):
        return Measure(given, _retrieval(given), is_share=True)
    raise checks.invalid("measures", f"one of {NAMES}, a perturbation or a Measure", repr(given))


NAMES = (
    "accuracy",
    "student_accuracy",
    "noise_accuracy",
    "dropped_units_accuracy",
    "mean_squared_error",
    *measure_names([1]),
)


def is_of_retrieval(name):
    """Whether a name is a result of `retrieval.evaluate`, at any cut-off."""
    return name in measure_names([1]) or bool(re.fullmatch(r"recall@[1-9][0-9]*", str(name)))


def _named(taps):
    if not taps:
        raise checks.invalid(
            "measures",
            "penalties with taps for 'dropped_units_accuracy', or robustness.DroppedUnits(taps)",
            "no taps",
        )
    return tuple(dict.fromkeys(taps))


def _accuracy(network, x, y):
    outputs, labels = _outputs(network, x), classes_on_host(y, argument="y")
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise checks.invalid("measures", "a network of (n, classes)", f"outputs {outputs.shape}")
    return np.mean(outputs.argmax(axis=1) == labels)


def _under(perturbation):
    def value(network, x, y):
        outputs = _outputs(network, keras.tree.map_structure(lambda a: a[:BATCH], x))
        table = evaluate(
            network,
            (x, classes_on_host(y, argument="y")),
            [perturbation],
            from_logits=not are_distributions(outputs).all(),
            progress=False,
        )
        return table["accuracy"].iloc[1:].mean()

    return value


def _squared_error(network, x, y):
    outputs = _outputs(network, x)
    y = np.asarray(y, outputs.dtype).reshape(outputs.shape)
    return np.mean((outputs - y) ** 2)


def _retrieval(name):
    cutoff = int(name.partition("@")[2]) if name.startswith("recall@") else 1

    def value(network, x, y):
        labels = classes_on_host(y, argument="y")
        return retrieve(x, labels=labels, k=[cutoff], model=network)[name]

    return value


def _outputs(network, x):
    outputs = network.predict(x, batch_size=BATCH, verbose=0)
    if not isinstance(outputs, np.ndarray):
        raise checks.invalid("measures", "networks of one output", f"{len(outputs)} outputs")
    return outputs
