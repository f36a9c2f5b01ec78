"""A teacher's representations, computed once and kept beside the data."""

import hashlib
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lgg.checks import invalid
from keras_lgg.training.penalties import Penalty, check_penalties, teacher_student_taps
from keras_lgg.training.taps import TappedModel
from keras_lgg.types import Dataset, PathLike

# A cached sample's inputs are a dict of these two: what the student sees, and what the teacher
# said, by tap; OUTPUTS stands for the teacher's own outputs.
INPUTS, TEACHER, OUTPUTS = "inputs", "teacher", "outputs"


def teacher_cache(
    teacher: keras.Model,
    penalties: Sequence[Penalty],
    data: tuple[Any, ...] | Dataset,
    *,
    path: PathLike | None = None,
    batch_size: int = 128,
) -> Dataset:
    """What a distiller's penalties need of the teacher, for each sample of some data.

    The teacher runs once over the data, in inference mode. A `Distiller` with no teacher trains on
    the result as it would with the teacher in memory: the penalties see the same representations,
    whatever the order and the batches.

    Args:
        teacher: Trained model.
        penalties: List of the `Penalty` of the distiller; only what they tap is kept.
        data: Pair of arrays ``(x, y)`` or triple with sample weights, or a batched
            `tf.data.Dataset` of such, finite and without augmentation. Each array may be a
            structure of arrays.
        path: Folder that the cache is written to, which must not exist; ``None`` keeps it in
            memory. ``tf.data.Dataset.load(path)`` opens it again, in another process for instance.
        batch_size: Samples that the teacher sees at a time, where ``data`` are arrays.

    Returns:
        `tf.data.Dataset` of single samples, for ``.shuffle(...).batch(...)``, with the inputs
        ``{"inputs": x, "teacher": {tap: representation}}`` in place of x.

    Raises:
        ValueError: If the data change from one pass to the next, as with augmentation, or have no
            end; if a tap is unknown; if ``path`` exists.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> def network(width):
        ...     return keras.Sequential(
        ...         [
        ...             keras.Input((8,)),
        ...             keras.layers.Dense(width, "relu", name="hidden"),
        ...             keras.layers.Dense(3, "softmax"),
        ...         ]
        ...     )
        >>> x, y = np.random.default_rng(0).random((20, 8), "float32"), np.arange(20) % 3
        >>> penalties = [lgg.Penalty(lgg.losses.GraphDistillation(), [("hidden", "hidden")], 25.0)]
        >>> cached = lgg.teacher_cache(network(64), penalties, (x, y))
        >>> distiller = lgg.Distiller(None, network(4), penalties)
        >>> distiller.compile("adam", "sparse_categorical_crossentropy")
        >>> history = distiller.fit(cached.shuffle(20, seed=0).batch(10), shuffle=False, verbose=0)
        >>> sorted(history.history)
        ['graph_distillation', 'loss']
    """
    import tensorflow as tf

    if path is not None and pathlib.Path(path).exists():
        raise invalid("path", "a folder that does not exist yet", f"{path}, which does")
    batches, known = _batches(data, batch_size)
    taps = dict.fromkeys(
        path for penalty in check_penalties(penalties) for path, _ in teacher_student_taps(penalty)
    )
    infer = _inference(teacher, [tap for tap in taps if tap is not None])
    changed = False

    def rows():
        nonlocal changed
        for x, *rest in batches.as_numpy_iterator():
            if known is not None and not known.issuperset(_fingerprints((x, *rest))):
                changed = True
                return
            yield ({INPUTS: x, TEACHER: infer(x, outputs=None in taps)}, *rest)

    if path is None:
        parts = list(rows())
        _check_unchanged(changed)
        return tf.data.Dataset.from_tensor_slices(
            keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        )
    first = next(rows(), None)
    _check_unchanged(changed)
    signature = keras.tree.map_structure(
        lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), first
    )
    tf.data.Dataset.from_generator(rows, output_signature=signature).unbatch().save(str(path))
    if changed:
        shutil.rmtree(path)
        _check_unchanged(changed)
    return tf.data.Dataset.load(str(path))


def split_cached(x):
    """``(inputs, teacher)`` of a batch of `teacher_cache`, or ``(x, None)`` for any other."""
    if isinstance(x, dict) and set(x) == {INPUTS, TEACHER}:
        return x[INPUTS], x[TEACHER]
    return x, None


def _inference(teacher, taps):
    """A function of a batch that gives the taps and, where asked for, the outputs."""
    runner = TappedModel(teacher, taps) if taps else teacher

    def infer(x, *, outputs):
        predicted = runner.predict_on_batch(x)
        found, kept = predicted if taps else (predicted, {})
        return {**kept, OUTPUTS: found} if outputs else kept

    return infer


def _batches(data, batch_size):
    """The data as a batched dataset; where they might change, also what they are now."""
    import tensorflow as tf

    if isinstance(data, tuple):
        return tf.data.Dataset.from_tensor_slices(data).batch(batch_size), None
    if not isinstance(data, tf.data.Dataset):
        raise invalid("data", "a tuple of arrays (x, y) or a tf.data.Dataset", type(data).__name__)
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise invalid("data", "a finite dataset", "one that repeats without end")
    known = set()
    for batch in data.as_numpy_iterator():
        known.update(_fingerprints(batch))
    if not known:
        raise invalid("data", "a dataset of at least one sample", "an empty one")
    return data, known


def _fingerprints(batch):
    """A digest of each sample with all that belongs to it."""
    arrays = [np.ascontiguousarray(x) for x in keras.tree.flatten(batch)]
    for sample in zip(*arrays, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for array in sample:
            digest.update(array.tobytes())
        yield digest.digest()


def _check_unchanged(changed):
    if changed:
        raise ValueError(
            "The data change from one pass to the next. Expected the same samples each time, "
            "since the teacher is asked about each of them once. Received: samples in the second "
            "pass that the first one did not have, as augmentation makes them. Cache the data "
            "without augmentation, or train with the teacher in memory: lgg.Distiller(teacher, "
            "student, penalties)."
        )
