"""Faults of a network itself: units that fail, weights of few bits."""

import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

from keras_lgg import checks
from keras_lgg.robustness.classifiers import Network, unchanged
from keras_lgg.robustness.inputs import arrays, filled, rows
from keras_lgg.robustness.perturbations import ModelPerturbation, sample_rng, store_numbers
from keras_lgg.training.taps import EditedModel, TappedModel
from keras_lgg.types import Samples


@dataclasses.dataclass(frozen=True)
class DroppedUnits(ModelPerturbation):
    r"""Units that fail: elements of representations that are set to 0, drawn anew for each sample.

    At rate p, each element h of the output of each tapped layer is dropped independently:

    .. math::

        h' = \begin{cases}
        0 & \text{with probability } p \\
        h / (1 - p) & \text{otherwise}
        \end{cases}

    Without ``rescale``, the other units keep their value h.

    Args:
        taps: Paths of layers, such as ``["block1", "backbone/block3"]``.
        rates: Probabilities p, from 0 to 1.
        rescale: Whether the other units are divided by ``1 - rate``, as by a dropout layer and in
            the published experiments, or stay as they are (faults that nobody corrects).
        name: Name in the table.

    Raises:
        ValueError: If an argument is out of its range; from `evaluate`, if a model has no such
            tap.

    Example:
        >>> from keras_lgg import robustness
        >>> robustness.DroppedUnits(["block1"], rates=(0.1,)).severities
        (0.1,)

    Reference: Lassance, Gripon and Ortega, "Representing deep neural networks latent space
    geometries with graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
    """

    taps: Sequence[str]
    _: dataclasses.KW_ONLY
    rates: Sequence[float] = (0.1, 0.25, 0.4)
    rescale: bool = True
    name: str = "dropped units"

    def __post_init__(self) -> None:
        taps = (self.taps,) if isinstance(self.taps, str) else tuple(self.taps)
        if not taps or not all(isinstance(tap, str) for tap in taps):
            raise checks.invalid("taps", "at least one path of a layer", repr(self.taps))
        object.__setattr__(self, "taps", taps)
        store_numbers(self, "rates", lambda rate: 0 <= rate <= 1, "numbers from 0 to 1")

    @property
    def severities(self) -> Sequence[float]:
        return self.rates

    def outputs(
        self, network: Network, inputs: Samples, labels: np.ndarray, *, seed: int
    ) -> Iterator[np.ndarray]:
        _, taps = TappedModel(network.model, self.taps)(rows(inputs, 0, 1))
        size, total = network.batch_size, len(arrays(inputs)[0])
        masks = {path: _Mask((size, *taps[path].shape[1:])) for path in self.taps}
        faulty = Network(EditedModel(network.model, masks), batch_size=size)
        for rate in self.rates:
            for mask in masks.values():
                # At a rate of 1, nothing is left to scale.
                mask.scale.assign(1 / (1 - rate) if self.rescale and rate < 1 else 1.0)
            results = []
            for start in range(0, total, size):
                batch = rows(inputs, start, start + size)
                for path, mask in masks.items():
                    mask.draw(seed, f"{self.name} {path}", rate, start)
                results.append(faulty.outputs(filled(batch, size))[: total - start])
            yield np.concatenate(results)


class _Mask(keras.layers.Layer):
    """Scales its units, and sets those to 0 where its mask, for a full batch, is False."""

    def __init__(self, shape):
        super().__init__()
        self.mask = self.add_weight(
            name="mask", shape=shape, dtype="bool", initializer="ones", trainable=False
        )
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones", trainable=False)

    def draw(self, seed, key, rate, start):
        """Draw new masks for the samples from index ``start`` on."""
        size, *units = self.mask.shape
        rngs = (sample_rng(seed, key, rate, i) for i in range(start, start + size))
        self.mask.assign(np.stack([rng.random(units, "float32") >= rate for rng in rngs]))

    def compute_output_shape(self, input_shape):  # with an open batch size, unlike the mask
        return input_shape

    def call(self, x):
        kept = x * ops.cast(self.scale, x.dtype)
        return ops.where(ops.convert_to_tensor(self.mask), kept, ops.zeros_like(x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedWeights(ModelPerturbation):
    r"""Trainable weights rounded to a few levels, and restored afterwards.

    With b bits, each entry w of a tensor with smallest value l and largest value h is rounded to
    one of :math:`2^b` evenly spaced levels:

    .. math::

        w' = l + \Delta \operatorname{round} \frac{w - l}{\Delta}, \qquad
        \Delta = \frac{h - l}{2^b - 1}

    A constant tensor stays as it is.

    Args:
        bits: Numbers of bits b, integers from 1 to 16.

    Its name is "quantized weights"; its severities are the bits.

    Raises:
        ValueError: If ``bits`` is out of range; from `evaluate`, if a model has no trainable
            weights.

    Example:
        >>> from keras_lgg import robustness
        >>> robustness.QuantizedWeights(bits=(8, 4)).severities
        (8, 4)

    Reference: the experiment is one of Lassance, Gripon and Ortega, "Representing deep neural
    networks latent space geometries with graphs", Algorithms 14(2):39, 2021,
    https://arxiv.org/abs/2011.07343
    """

    bits: Sequence[int] = (8, 6, 5, 4)

    def __post_init__(self) -> None:
        store_numbers(self, "bits", range(1, 17).__contains__, "integers from 1 to 16")

    name = "quantized weights"

    @property
    def severities(self) -> Sequence[float]:
        return self.bits

    def outputs(
        self, network: Network, inputs: Samples, labels: np.ndarray, *, seed: int
    ) -> Iterator[np.ndarray]:
        weights = network.model.trainable_weights
        if not weights:
            raise ValueError(
                f"The weights of '{network.model.name}' cannot be quantized. Expected trainable "
                "weights. Received: none. If the model is frozen, set model.trainable = True."
            )
        for bits in self.bits:
            with unchanged(network.model):
                for weight in weights:
                    weight.assign(_quantized(ops.convert_to_numpy(weight), 2 ** int(bits)))
                outputs = network.outputs(inputs)
            yield outputs


def _quantized(values, levels):
    values = values.astype("float64")
    low, high = values.min(), values.max()
    if low == high:
        return values
    step = (high - low) / (levels - 1)
    return low + step * np.rint((values - low) / step)
