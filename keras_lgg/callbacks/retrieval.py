"""A callback that measures an embedding by retrieval while it trains."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_lgg import checks
from keras_lgg.callbacks.probes import Probe, probed
from keras_lgg.graphs.pooling import check_pool
from keras_lgg.retrieval.evaluation import evaluate, measure_names
from keras_lgg.retrieval.search import METRICS
from keras_lgg.training.models import network_of
from keras_lgg.types import ArrayLike, Samples


class RetrievalMonitor(keras.callbacks.Callback):
    """Measures how good an embedding is for retrieval, at the end of each epoch, and logs it.

    The values are what `keras_lgg.retrieval.evaluate` returns for a fixed set of samples, searched
    among themselves: recall, precision, MAP@R and MRR, under names such as ``"val_recall@1"``. They
    go into the logs, where the history, a tuner and callbacks later in the list find them
    (``keras.callbacks.EarlyStopping("val_recall@1", mode="max")``).

    The model runs in inference mode, without changes of any state.

    Args:
        x: The samples, usually held out: an array ``(n, ...)``, or a structure of such arrays, as
            the model takes it.
        y: Their class labels: integers ``(n,)`` or ``(n, 1)``, or one-hot or multi-hot rows
            ``(n, c)``.
        k: Cut-offs of the recall, a sequence of positive integers.
        metric: What makes a sample near: ``"cosine"``, ``"euclidean"`` or ``"inner"``.
        tap: Name of the layer whose output is the embedding; by default the output of the model.
        pool: How a layer with positions becomes one vector per sample: ``None`` (all positions,
            flattened), ``"mean"``, ``"max"``, ``"first"`` or ``"last"``; masked positions do not
            count.
        every: Number of epochs from one measurement to the next; the last epoch is always measured.
        prefix: What the names in the logs begin with.
        batch_size: Number of samples that the model sees at a time.

    Raises:
        ValueError: If an argument is invalid or, in ``fit``, if the layer is unknown or no sample
            shares its class with another.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", lgg.losses.TargetGraph())
        >>> x, y = np.random.default_rng(0).random((20, 4)), np.arange(20) % 2
        >>> monitor = lgg.callbacks.RetrievalMonitor(x, y, k=[1])
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[monitor]).history
        >>> len(history["val_recall@1"]), len(history["val_map@r"])
        (2, 2)

    Reference: MAP@R and R-precision: Musgrave et al., "A metric learning reality check", ECCV 2020,
    https://arxiv.org/abs/2003.08505
    """

    def __init__(
        self,
        x: Samples,
        y: ArrayLike,
        *,
        k: Sequence[int] = (1,),
        metric: str = "cosine",
        tap: str | None = None,
        pool: str | None = None,
        every: int = 1,
        prefix: str = "val_",
        batch_size: int = 128,
    ) -> None:
        super().__init__()
        checks.check_choice("metric", metric, METRICS)
        checks.check_positive_integer("every", every)
        check_pool(pool)
        measure_names(k)
        self.k, self.metric, self.tap, self.pool = k, metric, tap, pool
        self.every, self.prefix = every, prefix
        self.probe = Probe(x, y, batch_size=batch_size)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._network = probed(network_of(self.model), [self.tap])
        self._last = {f"{self.prefix}{name}": float("nan") for name in measure_names(self.k)}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        is_last = epoch + 1 == self.params.get("epochs")
        if (epoch + 1) % self.every == 0 or is_last:
            (rows,) = self.probe.representations(self._network, [self.tap], self.pool)
            found = evaluate(rows, labels=self.probe.labels, k=self.k, metric=self.metric)
            self._last = {f"{self.prefix}{name}": value for name, value in found.items()}
        if logs is not None:  # in each epoch, so that all lists of the history have one length
            logs.update(self._last)
