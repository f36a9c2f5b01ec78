"""A model that trains a base under penalties on the geometry of its layers."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_lgg.training.models import PenalizedModel
from keras_lgg.training.paths import path_at
from keras_lgg.training.penalties import Penalty
from keras_lgg.training.plans import OneNetwork


@keras.saving.register_keras_serializable("keras_lgg")
class GeometryModel(PenalizedModel):
    """Trains a model under penalties on the latent geometry of its layers.

    Outputs and tapped representations come from one forward pass. In ``fit`` and ``evaluate``, the
    total loss is the compiled loss, plus the `add_loss` losses of the layers, plus the sum of
    ``weight * value`` over the penalties; each value is logged under the name of its penalty.

    Use it like any Keras model. ``model.base`` is the plain model to deploy: it shares the weights
    and contains nothing of this package.

    Args:
        base: Any Keras model that trains as `keras.Model` does.
        penalties: List of `Penalty`, with layers of the base as ``taps``.
        micro_batch: Number of samples that pass through the base at a time, so that its activations
            fit into memory; graphs and gradients are still those of the whole batch. ``None``
            passes all at once. See :doc:`/micro_batches`.
        **kwargs: ``name`` and the other arguments of `keras.Model`.

    Raises:
        ValueError: If a tap is unknown or cannot be reached, or a penalty cannot act on a single
            network.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> base = keras.Sequential(
        ...     [
        ...         keras.Input((8,)),
        ...         keras.layers.Dense(16, "relu", name="h1"),
        ...         keras.layers.Dense(16, "relu", name="h2"),
        ...         keras.layers.Dense(3, "softmax"),
        ...     ]
        ... )
        >>> model = lgg.GeometryModel(
        ...     base,
        ...     penalties=[
        ...         lgg.Penalty(lgg.losses.SmoothnessVariation(power=2), ["h1", "h2"], weight=1e-3)
        ...     ],
        ... )
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> x, y = np.random.default_rng(0).random((20, 8)), np.arange(20) % 3
        >>> history = model.fit(x, y, verbose=0)
        >>> sorted(history.history)
        ['loss', 'smoothness_variation']

    Reference: Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries
    with Graphs", Algorithms 14(2):39, 2021.
    """

    _plan: OneNetwork

    def __init__(
        self,
        base: keras.Model,
        penalties: Sequence[Penalty],
        *,
        micro_batch: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(base, OneNetwork(base, penalties, micro_batch), **kwargs)
        self.base = base

    @property
    def _core(self):
        return self.base

    def get_config(self) -> dict[str, Any]:
        base = keras.saving.serialize_keras_object(self.base)
        return {**super().get_config(), "base": base, "positions": self._plan.positions()}

    @classmethod
    def _restored(cls, *, base, penalties, positions=None, **config):
        def found(path):
            return path_at(base, path, (positions or {}).get(path, []))

        for penalty in penalties:
            if isinstance(penalty.taps, str):
                penalty.taps = found(penalty.taps)
            elif penalty.taps is not None:
                penalty.taps = [found(path) for path in penalty.taps]
        return cls(base, penalties, **config)
