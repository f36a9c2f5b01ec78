"""Attacks on the pixels of a classifier; their public face is `keras_lgg.robustness`."""

import dataclasses
import functools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.robustness.classifiers import Network
from keras_lgg.robustness.perturbations import (
    ModelPerturbation,
    at_snr,
    global_random_states,
    is_positive,
    norms,
    sample_rng,
    store_numbers,
    unit,
)


class _Attack(ModelPerturbation):
    takes = ("pixels",)

    # Any: a subclass has `severities`, as a field or as a property, and `attack`.
    def outputs(
        self: Any, network: Network, images: np.ndarray, labels: np.ndarray, *, seed: int
    ) -> Iterator[np.ndarray]:
        for severity in self.severities:
            yield network.outputs(self.attack(network, images, labels, severity, seed))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(_Attack):
    r"""Fast gradient sign method: one step along the sign of the gradient.

    With :math:`\mathcal{L}` the cross-entropy of an image x with label y, the attacked image is

    .. math::

        x' = \operatorname{clip}_{[0, 1]} \bigl( x + \varepsilon \operatorname{sign}
        \nabla_x \mathcal{L}(x, y) \bigr)

    Give exactly one of the two sweeps. With ``snr``, each image gets its own step
    :math:`\varepsilon`, such that, before clipping,

    .. math::

        \text{SNR} = 20 \log_{10} \frac{\|x\|_2}{\|\varepsilon \operatorname{sign}
        \nabla_x \mathcal{L}\|_2}

    Args:
        epsilons: Step sizes :math:`\varepsilon`, for pixels in [0, 1], such as
            ``(2 / 255, 4 / 255, 8 / 255)``.
        snr: Signal-to-noise ratios in dB, such as ``(33,)``.

    Its name is "FGSM", or "FGSM at SNR"; its severities are the numbers given.

    Raises:
        ValueError: Unless exactly one sweep of finite (and, for epsilons, positive) numbers is
            given.

    Example:
        >>> from keras_lgg import robustness
        >>> robustness.FGSM(epsilons=(0.01, 0.02)).name, robustness.FGSM(snr=(33,)).name
        ('FGSM', 'FGSM at SNR')

    Reference: Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015,
    https://arxiv.org/abs/1412.6572
    """

    epsilons: Sequence[float] | None = None
    snr: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if (self.epsilons is None) == (self.snr is None):
            raise checks.invalid(
                "epsilons",
                "exactly one of `epsilons` and `snr`",
                f"{self.epsilons}, snr={self.snr}",
            )
        if self.snr is None:
            store_numbers(self, "epsilons", is_positive, "positive numbers")
        else:
            store_numbers(self, "snr", math.isfinite, "finite numbers of dB")

    @property
    def name(self) -> str:
        return "FGSM" if self.snr is None else "FGSM at SNR"

    @property
    def severities(self) -> Sequence[float]:
        return self.epsilons or self.snr or ()

    def attack(
        self, network: Network, images: np.ndarray, labels: np.ndarray, severity: float, seed: int
    ) -> np.ndarray:
        return np.clip(images + self._step(network, images, labels, severity), 0, 1)

    def _step(self, network, images, labels, severity):
        sign = np.sign(network.loss_gradient(images, labels))
        if self.snr is None:
            return np.float32(severity) * sign
        return at_snr(images, sign, severity)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(_Attack):
    r"""Projected gradient descent: steps along the gradient, projected on a ball around the image.

    From the image :math:`x_0`, or a random start in the ball, each of the steps is

    .. math::

        x_{t+1} = x_0 + \Pi_\varepsilon \bigl( \operatorname{clip}_{[0, 1]}(x_t + \alpha d_t) - x_0
        \bigr) ,

    where :math:`\alpha` is the step size, :math:`\Pi_\varepsilon` projects on the ball of radius
    :math:`\varepsilon`, and the direction :math:`d_t` is the sign of the gradient of the
    cross-entropy or, with the norm "l2", the gradient at unit length.

    Clipping comes before the projection, as in the Adversarial Robustness Toolbox: what clipping
    takes from some pixels leaves more of the radius to the others. The image is in [0, 1], and so
    is all that lies between it and the clipped point.

    Args:
        epsilons: Radii :math:`\varepsilon` of the ball, for pixels in [0, 1].
        norm: The norm of the ball: "linf", for the largest change of a pixel, or "l2", for the
            length of the change over all pixels of an image.
        steps: Number of steps.
        step_size: Step size :math:`\alpha`, or None for ``2.5 * epsilon / steps``.
        random_start: Whether to start at a uniform draw from the ball, rather than at the image.

    Its name is "PGD L-inf" or "PGD L2"; its severities are the epsilons.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from keras_lgg import robustness
        >>> robustness.PGD(epsilons=(8 / 255,), steps=20).name
        'PGD L-inf'

    Reference: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR
    2018, https://arxiv.org/abs/1706.06083; the order of clipping and projection: Nicolae et al.,
    "Adversarial Robustness Toolbox v1.0.0", 2018, https://arxiv.org/abs/1807.01069
    """

    epsilons: Sequence[float]
    norm: str = "linf"
    steps: int = 10
    step_size: float | None = None
    random_start: bool = True

    def __post_init__(self) -> None:
        store_numbers(self, "epsilons", is_positive, "positive numbers")
        checks.check_choice("norm", self.norm, ("linf", "l2"))
        checks.check_positive_integer("steps", self.steps)
        if self.step_size is not None:
            checks.check_positive("step_size", self.step_size)

    @property
    def name(self) -> str:
        return "PGD L-inf" if self.norm == "linf" else "PGD L2"

    @property
    def severities(self) -> Sequence[float]:
        return self.epsilons

    def attack(
        self, network: Network, images: np.ndarray, labels: np.ndarray, severity: float, seed: int
    ) -> np.ndarray:
        step = self.step_size or 2.5 * severity / self.steps
        start = self._start(images, severity, seed) if self.random_start else 0
        x = np.clip(images + start, 0, 1).astype("float32")
        for _ in range(self.steps):
            move = step * self._direction(network.loss_gradient(x, labels))
            clipped = np.clip(x + move, 0, 1)
            # The second clipping removes what rounding may add.
            x = np.clip(images + self._project(clipped - images, severity), 0, 1)
            x = x.astype("float32")
        return x

    def _direction(self, gradient):
        return np.sign(gradient) if self.norm == "linf" else unit(gradient)

    def _project(self, move, radius):
        if self.norm == "linf":
            return np.clip(move, -radius, radius)
        return unit(move) * np.minimum(norms(move), radius)

    def _start(self, images, radius, seed):
        shape = images.shape[1:]
        rngs = [sample_rng(seed, self.name, radius, i) for i in range(len(images))]
        if self.norm == "linf":
            return np.stack([rng.uniform(-radius, radius, shape) for rng in rngs])
        directions = unit(np.stack([rng.standard_normal(shape) for rng in rngs]))
        # Uniform in the ball: the share of it within radius r grows as r ** dimensions.
        lengths = [radius * rng.random() ** (1 / math.prod(shape)) for rng in rngs]
        return directions * np.reshape(lengths, norms(images).shape)


@dataclasses.dataclass(frozen=True)
class ArtAttack(_Attack):
    """An evasion attack of the Adversarial Robustness Toolbox, on a Keras 3 model.

    Needs the extra ``attacks``. The attack sees outputs and gradients of the model at inference,
    the true labels, and pixels in [0, 1]. In a sweep, the attack gets each severity in turn.

    Args:
        attack_class: Class of the attack, such as ``art.attacks.evasion.DeepFool``.
        settings: Dict of its keyword arguments, such as ``{"max_iter": 10, "batch_size": 64}``
            (by default, several attacks take one image at a time). Its progress bars are off
            unless ``verbose`` is set.
        severities: Numbers to sweep, or None for one run as set, whose severity is NaN.
        severity_argument: Keyword argument of the attack that takes a severity.
        name: Name in the table; by default the name of the class.

    It is seeded through the global states of NumPy and Python, which are restored. An attack that
    draws by other means, such as the first points of HopSkipJump and BoundaryAttack, is not
    reproducible.

    Raises:
        ValueError: If ``attack_class`` is no such class, or the attack is targeted: there are no
            targets.

    Example:
        >>> from keras_lgg import robustness
        >>> from art.attacks.evasion import SquareAttack  # doctest: +SKIP
        >>> robustness.ArtAttack(
        ...     SquareAttack, settings={"max_iter": 100}, severities=(4 / 255, 8 / 255)
        ... )  # doctest: +SKIP

    Reference: Nicolae et al., "Adversarial Robustness Toolbox v1.0.0", 2018,
    https://arxiv.org/abs/1807.01069
    """

    attack_class: type[Any]
    _: dataclasses.KW_ONLY
    settings: dict[str, Any] | None = None
    severities: Sequence[float] | None = None
    severity_argument: str = "eps"
    name: str | None = None

    def __post_init__(self) -> None:
        base = checks.require("art.attacks.attack", "attacks").EvasionAttack
        if not isinstance(self.attack_class, type) or not issubclass(self.attack_class, base):
            raise checks.invalid(
                "attack_class", "a class of art.attacks.evasion, not an object", self.attack_class
            )
        if (self.settings or {}).get("targeted"):
            raise checks.invalid("settings", "an untargeted attack", self.settings)
        if self.severities is None:
            object.__setattr__(self, "severities", (math.nan,))
        else:
            store_numbers(self, "severities", math.isfinite, "finite numbers")
        object.__setattr__(self, "name", self.name or self.attack_class.__name__)

    def attack(
        self, network: Network, images: np.ndarray, labels: np.ndarray, severity: float, seed: int
    ) -> np.ndarray:
        settings = dict(self.settings or {})
        if "verbose" in self.attack_class.attack_params:
            settings.setdefault("verbose", False)
        if not math.isnan(severity):
            settings[self.severity_argument] = severity
        classes = network.outputs(images[:1]).shape[-1]
        with global_random_states():
            words = sample_rng(seed, self.name, severity, 0).integers(2**32, size=2)
            np.random.seed(words[0])
            random.seed(int(words[1]))
            estimator = _art_estimator()(network, images.shape[1:], classes)
            found = self.attack_class(estimator, **settings).generate(
                images.copy(), np.eye(classes, dtype="float32")[labels]
            )
        return np.clip(found, 0, 1).astype("float32")


@functools.cache
def _art_estimator():
    """The class through which the toolbox sees a `Network`."""
    classifier = checks.require("art.estimators.classification.classifier", "attacks")

    class Estimator(classifier.ClassifierNeuralNetwork):
        def __init__(self, network, input_shape, classes):
            channels_first = keras.config.image_data_format() == "channels_first"
            super().__init__(
                model=network.model, clip_values=(0.0, 1.0), channels_first=channels_first
            )
            self._network = network
            self._input_shape = tuple(input_shape)
            self.nb_classes = classes

        @property
        def input_shape(self):
            return self._input_shape

        def predict(self, x, **kwargs):
            return self._network.outputs(np.asarray(x, "float32"))

        def loss_gradient(self, x, y, **kwargs):
            return self._network.loss_gradient(np.asarray(x, "float32"), _classes(y))

        def class_gradient(self, x, label=None, **kwargs):
            n, x = len(x), np.asarray(x, "float32")
            chosen = range(self.nb_classes) if label is None else [label]
            gradients = [self._network.output_gradient(x, np.broadcast_to(c, (n,))) for c in chosen]
            return np.stack(gradients, axis=1)

        def compute_loss(self, x, y, reduction="none", **kwargs):
            outputs = self.predict(x)
            if self._network.from_logits:
                log_p = outputs - np.logaddexp.reduce(outputs, axis=1, keepdims=True)
            else:
                log_p = np.log(np.maximum(outputs, 1e-30))
            losses = -np.take_along_axis(log_p, _classes(y)[:, None], axis=1)[:, 0]
            return losses if reduction == "none" else getattr(np, reduction)(losses)

        def _refuse(self, *args, **kwargs):
            raise NotImplementedError(
                "This attack does not work on a Keras 3 model. Expected one that needs outputs and "
                "gradients alone. Received: one that trains the model or looks into its layers."
            )

        fit = save = get_activations = _refuse

    return Estimator


def _classes(y):
    y = np.asarray(y)
    return y if y.ndim == 1 else y.argmax(axis=1)
