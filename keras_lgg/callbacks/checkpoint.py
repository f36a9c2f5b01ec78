"""Checkpoints of the network that will be deployed, while a model around it trains."""

from typing import Any

import keras

from keras_lgg.training.models import PenalizedModel
from keras_lgg.training.penalty_layer import GeometryPenalty, without_penalties
from keras_lgg.training.rebuilding import layers_of
from keras_lgg.types import PathLike


class PlainCheckpoint(keras.callbacks.ModelCheckpoint):
    """Saves checkpoints of the plain network that will be deployed.

    It is a `keras.callbacks.ModelCheckpoint` that saves another network than the one that trains:
    for a `GeometryModel` its base, for a `Distiller` the student, and for a model with
    `GeometryPenalty` layers the model without them. What is saved needs nothing of this package,
    and its weights load into the plain network.

    Args:
        filepath: Path of the file, which may contain ``{epoch:02d}`` and the names of logged
            values: ``"best.keras"`` or, with ``save_weights_only=True``, ``"best.weights.h5"``.
        monitor: Name of the logged value that says which checkpoint is best.
        verbose: 0, or 1 to print a message for each file.
        save_best_only: Whether to keep only the best checkpoint, by ``monitor``.
        save_weights_only: Whether to save only the weights, rather than the model.
        mode: Whether the best value is the largest, ``"max"``, or the smallest, ``"min"``;
            ``"auto"`` decides by the name in ``monitor``.
        save_freq: When to save: ``"epoch"``, at the end of each epoch, or a number of batches.
        initial_value_threshold: Value that the first checkpoint must improve on to be the best one.

    Example:
        >>> import keras, keras_lgg as lgg, numpy as np, os, tempfile
        >>> base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
        >>> model = lgg.GeometryModel(base, [lgg.Penalty(lgg.losses.GraphSmoothness(), "h")])
        >>> model.compile("sgd")
        >>> path = os.path.join(tempfile.mkdtemp(), "best.keras")
        >>> checkpoint = lgg.callbacks.PlainCheckpoint(path, monitor="loss")
        >>> x, y = np.ones((4, 4), "float32"), np.arange(4) % 2
        >>> _ = model.fit(x, y, verbose=0, callbacks=[checkpoint])
        >>> type(keras.saving.load_model(path)).__name__
        'Sequential'
    """

    def __init__(
        self,
        filepath: PathLike,
        *,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: int | str = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(
            filepath,
            monitor=monitor,
            verbose=verbose,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only,
            mode=mode,
            save_freq=save_freq,
            initial_value_threshold=initial_value_threshold,
        )

    def set_model(self, model: keras.Model) -> None:
        self._trained = model
        super().set_model(_plain(model))

    # On JAX, the values of the variables are elsewhere until they are fetched.
    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.save_freq != "epoch":
            self._fetch()
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._fetch()
        super().on_epoch_end(epoch, logs)

    def _fetch(self):
        if keras.backend.backend() == "jax":
            self._trained.jax_state_sync()


def _plain(model):
    if isinstance(model, PenalizedModel):
        model = model._core
    return without_penalties(model) if layers_of(model, GeometryPenalty) else model
