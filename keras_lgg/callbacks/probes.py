"""What the layers of a model make of a fixed batch, without affecting the training around it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.callbacks.logs import EventLog
from keras_lgg.graphs.labels import are_class_indices, classes_on_host
from keras_lgg.graphs.numerics import flatten_representation
from keras_lgg.graphs.pooling import check_pool, pooled
from keras_lgg.training.distiller import Distiller
from keras_lgg.training.models import PenalizedModel, network_of
from keras_lgg.training.penalties import layer_taps, teacher_student_taps
from keras_lgg.training.taps import Tapped, seen_output

Taps = str | Sequence[str | tuple[str, str]] | None
OUTPUT = "output"  # the name of a model's output if no layer is named
COLUMNS = 4096  # how many of them `condensed` multiplies at a time


class Tap(NamedTuple):
    """A tapped layer, and the teacher's layer that belongs to it; ``None`` is the output."""

    layer: str | None
    teacher: str | None

    @property
    def name(self) -> str:
        return OUTPUT if self.layer is None else self.layer


class Probe:
    """A fixed batch of samples.

    Args:
        x: Array ``(n, ...)``, or a structure of such arrays, as the models take it.
        y: Class labels, integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)``; or
            ``None``.
        batch_size: Number of samples that a model sees at a time.

    Raises:
        ValueError: If the arrays do not have one common length of at least 2.
    """

    def __init__(self, x: Any, y: Any = None, *, batch_size: int = 128):
        checks.check_positive_integer("batch_size", batch_size)
        self.x = keras.tree.map_structure(np.asarray, x)
        self.batch_size = batch_size
        lengths = {np.shape(array)[:1] for array in keras.tree.flatten(self.x)}
        if len(lengths) != 1 or min(lengths) < (2,):
            raise checks.invalid(
                "x", "an array of at least 2 samples, or arrays of as many each", f"{_shapes(x)}"
            )
        ((self.size,),) = lengths
        self.labels: Any = None if y is None else np.asarray(y)
        if y is not None:
            first = keras.tree.flatten(self.x)[0]
            self.classes = classes_on_host(self.labels, first, argument="y")

    def signal(self) -> tuple[np.ndarray, int]:
        """The labels, and the number of classes, which need not be numbered from 0."""
        if not are_class_indices(self.labels):
            return self.labels, self.labels.shape[1]
        names, classes = np.unique(self.classes, return_inverse=True)
        return classes, len(names)

    def representations(
        self, network: Tapped, layers: Sequence[str | None], pool: str | None = None
    ) -> list[np.ndarray]:
        """What some layers make of the samples, a float array ``(n, d)`` for each layer."""
        parts = [self._seen(network, layers, batch, pool) for batch in self._batches()]
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    def _batches(self) -> Iterator[Any]:
        for start in range(0, self.size, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield keras.tree.map_structure(lambda array, rows=rows: array[rows], self.x)

    @staticmethod
    def _seen(network, layers, batch, pool):
        outputs, taps = network.infer(batch)
        if None in layers:
            output = _single_output(network.model, outputs)
            taps = {**taps, None: seen_output(network.model, batch, output)}
        # Copied off the device at once, so that only one batch is on it at a time.
        return [
            keras.ops.convert_to_numpy(flatten_representation(pooled(seen.value, seen.mask, pool)))
            for seen in (taps[path] for path in layers)
        ]


class LayerWatcher(keras.callbacks.Callback):
    """A callback that looks at layers on a fixed batch, in inference mode.

    Args:
        x: The fixed batch, see `Probe`.
        y: Its class labels.
        taps: Names of layers, see `resolved_taps`.
        log_dir: Folder of TensorBoard's event files, or ``None``.
        batch_size: Number of samples that the model sees at a time.
        pool: How what has positions is pooled, see `keras_lgg.Penalty`.
    """

    def __init__(self, x, y, *, taps, log_dir, batch_size, pool):
        super().__init__()
        check_pool(pool)
        self.pool = pool
        self.probe = Probe(x, y, batch_size=batch_size)
        self.taps = taps
        self.log_dir = log_dir

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._taps = resolved_taps(self.model, self.taps, self._teacher_model())
        self._network = probed(network_of(self.model), [tap.layer for tap in self._taps])
        self._logs: list[Any] = [] if self.log_dir is None else [EventLog(self.log_dir)]

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        for log in self._logs:
            log.close()

    def _teacher_model(self):
        return teacher_of(self.model)

    def _look(self):
        """What the tapped layers make of the batch, an array ``(n, d)`` for each layer."""
        layers = [tap.layer for tap in self._taps]
        return self.probe.representations(self._network, layers, self.pool)


def condensed(rows: np.ndarray) -> np.ndarray:
    """Rows ``(n, d)`` in at most n columns, with the same inner products.

    All that a graph, an effective rank or a search of neighbours needs is preserved.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.callbacks.probes import condensed
        >>> rows = np.random.default_rng(0).random((3, 1000), "float32")
        >>> found = condensed(rows)
        >>> found.shape, bool(np.allclose(found @ found.T, rows @ rows.T, rtol=1e-4))
        ((3, 3), True)
    """
    n, d = rows.shape
    if d <= n:
        return rows
    products = np.zeros((n, n))
    for start in range(0, d, COLUMNS):  # all of it in float64 would take twice the memory
        columns = rows[:, start : start + COLUMNS].astype("float64")
        products += columns @ columns.T
    try:
        return np.linalg.cholesky(products).astype("float32")
    except np.linalg.LinAlgError:  # fewer directions than samples; this takes longer
        values, vectors = np.linalg.eigh(products)
        return (vectors * np.sqrt(np.maximum(values, 0))).astype("float32")


def teacher_of(model: keras.Model) -> keras.Model | None:
    """The teacher of a model, if it has one."""
    return model.teacher if isinstance(model, Distiller) else None


def probed(network: keras.Model, layers: Sequence[str | None]) -> Tapped:
    """A network that returns some of its layers; raises if one is unknown."""
    return Tapped(network, [path for path in layers if path is not None])


def resolved_taps(model: keras.Model, taps: Taps, teacher: Any) -> list[Tap]:
    """The chosen taps, each layer once; raises if they are invalid.

    Args:
        model: The model that trains.
        taps: Names of layers, or pairs ``(teacher layer, layer)``, or ``None`` for those of the
            penalties.
        teacher: The teacher, if there is one.
    """
    found = _taps_of_penalties(model) if taps is None else _given_taps(taps, teacher)
    first: dict[str, Tap] = {}
    for tap in found:
        first.setdefault(tap.name, tap)
    return list(first.values())


def _given_taps(taps, teacher):
    given = [taps] if isinstance(taps, str) else taps
    pairs = [(name, name) if isinstance(name, str) else name for name in given]
    expected = "names of layers, in their order along the depth"
    if teacher is not None:
        expected += ", or pairs of names (teacher layer, layer)"
        valid = all(len(pair) == 2 and all(isinstance(p, str) for p in pair) for pair in pairs)
    else:
        valid = all(isinstance(name, str) for name in given)
    if not pairs or not valid:
        raise checks.invalid("taps", expected, repr(taps))
    return [Tap(ours, theirs) for theirs, ours in pairs]


def _taps_of_penalties(model):
    if not isinstance(model, PenalizedModel):
        raise ValueError(
            f"The model '{model.name}' does not say what to look at. Expected `taps`, names of "
            "layers, for a model that is neither a GeometryModel nor a Distiller. Received: "
            "taps=None. Write for instance taps=['block1', 'block2']."
        )
    if isinstance(model, Distiller):
        pairs = [pair for penalty in model.penalties for pair in teacher_student_taps(penalty)]
        return [Tap(ours, theirs) for theirs, ours in pairs]
    return [
        Tap(path, path)
        for penalty in model.penalties
        for path in ([None] if penalty.taps is None else layer_taps(penalty))
    ]


def _single_output(model, outputs):
    tensors = keras.tree.flatten(outputs)
    if len(tensors) != 1:
        raise ValueError(
            f"The output of '{model.name}' cannot be looked at. Expected a single tensor. "
            f"Received: {len(tensors)} of them. Name layers in `taps`."
        )
    return tensors[0]


def _shapes(x):
    return keras.tree.map_structure(np.shape, x)
