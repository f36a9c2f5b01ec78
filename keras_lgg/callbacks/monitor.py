"""A callback that measures what a training does to the geometry of the layers."""

import pathlib
import warnings
from typing import Any

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.callbacks.logs import FIRST, CsvLog
from keras_lgg.callbacks.measures import (
    alignment,
    effective_rank,
    graph_change,
    isolated_nodes,
    label_smoothness,
)
from keras_lgg.callbacks.probes import LayerWatcher, Taps, probed
from keras_lgg.training.models import network_of
from keras_lgg.types import ArrayLike, PathLike, Samples


class GeometryMonitor(LayerWatcher):
    r"""Measures the geometry of layers on a fixed batch at the end of each epoch, and logs it.

    For each tapped layer, under names such as ``"block1/effective_rank"``, there is

    * ``label_smoothness``: smoothness of the class labels on the layer's graph, with the normalised
      Laplacian and divided by n (`keras_lgg.graphs.label_smoothness` with ``relative=True``). On
      non-negative features it lies in [0, 2] at any n: 0 if the classes are separated, and about
      1 - 1/c if c classes are mixed. Only if ``y`` is given;
    * ``graph_change``: squared Frobenius distance between the layer's graph and that of the next
      tapped layer (`keras_lgg.losses.graph_variation`); the last layer has none;
    * ``effective_rank``: the number of directions that the representation X ``(n, d)`` uses, not
      centred, as the formula below says; between 1 and min(n, d), and 0 if all values are zero;
    * ``isolated_nodes``: share of the samples without an edge in the layer's graph
      (`keras_lgg.graphs.latent_geometry_graph`): rows of zeros, and samples whose similarities to
      the others sum to 0 or less;
    * ``cka_teacher``: linear CKA to the layer of the teacher or, without a teacher, ``cka_first``:
      to the same layer before the first epoch; NaN if all samples look the same. A training that
      begins at a later epoch, such as one that goes on from a backup, has no ``cka_first``: pass a
      copy of the untrained network as ``teacher``.

    With the singular values :math:`s_i` of X, the effective rank is

    .. math::

        \exp\left( - \sum_i p_i \log p_i \right), \qquad p_i = \frac{s_i}{\sum_j s_j}

    Graphs are cosine graphs; all but those of ``label_smoothness`` have normalised degrees. If a
    layer is not finite, all its values are NaN.

    The values go into the logs, where the history and callbacks later in the list find them
    (`keras.callbacks.EarlyStopping`, `keras.callbacks.CSVLogger`). A CSV file and TensorBoard also
    get the values from before the training, as epoch 0; epoch e is after e epochs.

    The monitor warns, once per layer in each ``fit``, if a layer has collapsed at the end of an
    epoch: if it is not finite, all its nodes are isolated, or its effective rank is below
    ``min_rank``.

    Layers run in inference mode, without gradients or changes of any state: the trained weights are
    those of a training without the monitor.

    Args:
        x: The fixed batch: an array ``(n, ...)``, or a structure of such arrays, as the model takes
            it. Time grows like n² and with the width of the layers; a few hundred samples are
            enough.
        y: Its class labels: integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)``.
        taps: Names of layers, in their order along the depth; with a teacher, also pairs
            ``(teacher layer, layer)``; a single name then stands for both. By default the layers of
            the model's penalties, in their order; of several pairs with one layer, the first
            counts. The output of the model, if a penalty acts on it, is called ``"output"``.
        teacher: Model to compare the layers with; by default the teacher of a `Distiller`.
        k: Number of nearest neighbours in the graphs, or ``None`` for full graphs.
        min_rank: Effective rank below which a layer counts as collapsed. A rank of 1 is a single
            direction, all that a layer of one unit can have; such a layer is not judged by its
            rank.
        batch_size: Number of samples that the model sees at a time.
        pool: How a layer with positions becomes one vector per sample: ``None`` (all positions,
            flattened), ``"mean"``, ``"max"``, ``"first"`` or ``"last"``; masked positions do not
            count.
        csv: Path of a CSV file, with a row per epoch. It is overwritten, but a training that begins
            at a later epoch continues it.
        log_dir: Folder of TensorBoard's event files.

    Raises:
        ValueError: If an argument is invalid or, in ``fit``, if a layer cannot be tapped, there are
            neither penalties nor ``taps``, or the CSV file to continue has other columns.
        ImportError: In ``fit``, if ``log_dir`` is given and TensorBoard is missing.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((8,)),
        ...         keras.layers.Dense(16, name="h1"),
        ...         keras.layers.Dense(16, name="h2"),
        ...         keras.layers.Dense(3, "softmax"),
        ...     ]
        ... )
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> x, y = np.random.default_rng(0).random((20, 8)), np.arange(20) % 3
        >>> monitor = lgg.callbacks.GeometryMonitor(x, y, taps=["h1", "h2"])
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[monitor]).history
        >>> for name in history:
        ...     if name.startswith("h1/"):
        ...         print(name, len(history[name]))
        h1/label_smoothness 2
        h1/graph_change 2
        h1/effective_rank 2
        h1/isolated_nodes 2
        h1/cka_first 2

    Reference: the effective rank: Roy and Vetterli, "The effective rank: a measure of effective
    dimensionality", EUSIPCO 2007; CKA: Kornblith et al., "Similarity of neural network
    representations revisited", ICML 2019, https://arxiv.org/abs/1905.00414; the graphs: Lassance,
    Gripon and Ortega, "Representing deep neural networks latent space geometries with graphs",
    Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
    """

    def __init__(
        self,
        x: Samples,
        y: ArrayLike | None = None,
        *,
        taps: Taps = None,
        teacher: keras.Model | None = None,
        k: int | None = None,
        min_rank: float = 1.5,
        batch_size: int = 128,
        pool: str | None = None,
        csv: PathLike | None = None,
        log_dir: PathLike | None = None,
    ) -> None:
        super().__init__(x, y, taps=taps, log_dir=log_dir, batch_size=batch_size, pool=pool)
        if k is not None:
            checks.check_positive_integer("k", k)
        checks.check_positive("min_rank", min_rank)
        self.teacher = teacher
        self.k = k
        self.min_rank = min_rank
        self.csv = None if csv is None else pathlib.Path(csv)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        if self.csv is not None:
            self._logs.insert(0, CsvLog(self.csv))
        teacher, self._teacher = self._teacher_model(), None
        if teacher is not None:
            self._teacher = probed(network_of(teacher), [tap.teacher for tap in self._taps])
        self._reference = None
        self._warned: set[str] = set()
        self._began = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._began:
            return
        self._began = True  # not earlier: other callbacks may restore a backup on_train_begin
        seen = self._look()
        if self._teacher is not None:
            layers = [tap.teacher for tap in self._taps]
            self._reference = self.probe.representations(self._teacher, layers, self.pool)
        elif epoch == 0:
            self._reference = seen
        values = self._measured(seen)
        for log in self._logs:
            log.begin(epoch, values)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seen = self._look()
        values = self._measured(seen)
        if logs is not None:
            logs.update(values)
        for log in self._logs:
            log.write(epoch + 1, values)
        for tap, x in zip(self._taps, seen, strict=True):
            self._warn(epoch + 1, tap.name, x, values)

    def _teacher_model(self):
        return super()._teacher_model() if self.teacher is None else self.teacher

    def _measured(self, seen):
        """The values of all layers, under their names in the logs."""
        following = [*seen[1:], None]
        references = self._reference or [None] * len(seen)
        return {
            f"{tap.name}/{quantity}": value
            for tap, *given in zip(self._taps, seen, following, references, strict=True)
            for quantity, value in self._measured_layer(*given)
        }

    def _measured_layer(self, x, following, reference):
        if self.probe.labels is not None:
            signal = self.probe.signal()
            yield "label_smoothness", label_smoothness(x, *signal, k=self.k)
        if following is not None:
            yield "graph_change", graph_change(x, following, k=self.k)
        yield "effective_rank", effective_rank(x)
        yield "isolated_nodes", isolated_nodes(x, k=self.k)
        if reference is not None:
            yield FIRST if self._teacher is None else "cka_teacher", alignment(x, reference)

    def _warn(self, epoch, name, x, values):
        """Warn if a layer has collapsed, the first time."""
        rank = values[f"{name}/effective_rank"]
        if not np.isfinite(x).all():
            received = "NaN or inf. Look at the data and the learning rate"
        elif values[f"{name}/isolated_nodes"] == 1:
            received = (
                "a graph without edges: the similarities of each sample to the others sum to 0 or "
                "less. A ReLU behind the layer, or a bias, makes them positive"
            )
        elif rank < self.min_rank and x.shape[1] > 1:
            received = (
                f"an effective rank of {rank:.4g}. Lower the learning rate or the weight of the "
                "penalty, or normalise the layer"
            )
        else:
            return
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"The layer '{name}' has collapsed after epoch {epoch}. Expected finite "
                "representations, edges between samples, and an effective rank of at least "
                f"{self.min_rank}. Received: {received}.",
                stacklevel=2,
            )
