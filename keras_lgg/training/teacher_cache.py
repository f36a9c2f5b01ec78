"""A teacher's representations, computed once and stored with the data."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import ParamSpec, Protocol, cast

import keras
import numpy as np

from keras_lgg import files
from keras_lgg.checks import invalid
from keras_lgg.training.fingerprints import (
    DataFingerprint,
    inputs_fingerprint,
    sample_digests,
    teacher_fingerprint,
)
from keras_lgg.training.paths import paths_of
from keras_lgg.training.penalties import Penalty, check_penalties, teacher_student_taps
from keras_lgg.training.taps import Tapped, seen_output
from keras_lgg.types import Dataset, PathLike, Samples, Tensor

# The inputs of a cached sample are a dict of these two: what the student sees, and what the teacher
# returned, by tap; OUTPUTS stands for the teacher's own outputs.
INPUTS, TEACHER, OUTPUTS = "inputs", "teacher", "outputs"
WHAT = "The teacher's cache"
ANEW = "Delete it, and write it with lgg.teacher_cache(teacher, penalties, data, path=...)."
# The facts in a manifest, and what errors call them.
FACTS = {
    "samples": "number of samples",
    "taps": "taps",
    "data": "fingerprint of the data",
    "teacher": "fingerprint of the teacher",
    "teacher_inputs": "fingerprint of what `teacher_inputs` makes of some samples",
}

P = ParamSpec("P")


class WithOpen(Protocol[P]):
    """A function that makes datasets, with a function ``open`` that opens them again."""

    open: Callable[[PathLike], Dataset]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Dataset: ...


def opened_by(
    open_again: Callable[[PathLike], Dataset],
) -> Callable[[Callable[P, Dataset]], WithOpen[P]]:
    """A decorator that gives a function the attribute ``open``."""

    def with_open(function: Callable[P, Dataset]) -> WithOpen[P]:
        described = cast(WithOpen[P], function)
        described.open = open_again
        return described

    return with_open


def open_cache(path: PathLike) -> Dataset:
    """Open a cache that `teacher_cache` wrote, for instance in another process.

    The whole cache is read once and checked against its checksums, at about a gigabyte per second.

    Args:
        path: Folder of the cache.

    Returns:
        `tf.data.Dataset` of single samples, as `teacher_cache` returns it.

    Raises:
        ValueError: If there is no cache, or it is from version 0.1.0, whose caches cannot be
            checked, or one of its files is missing, cut short, changed or foreign.

    Example:
        >>> import tempfile, keras, numpy as np, keras_lgg as lgg
        >>> teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, name="hidden")])
        >>> penalty = lgg.Penalty(lgg.losses.GraphDistillation(), [("hidden", "hidden")])
        >>> path = tempfile.mkdtemp() + "/cache"
        >>> x, y = np.random.default_rng(0).random((20, 8), "float32"), np.arange(20) % 3
        >>> _ = lgg.teacher_cache(teacher, penalty, (x, y), path=path)
        >>> len(lgg.teacher_cache.open(path))
        20
    """
    import tensorflow as tf

    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise invalid("path", "the folder of a teacher's cache", f"{path}, where there is none")
    if not (folder / files.MANIFEST).is_file():
        raise ValueError(
            f"The folder '{path}' is no whole cache. Expected a file '{files.MANIFEST}' in it, "
            "which describes the others. Received: a folder without one, as version 0.1.0 wrote "
            f"it, whose caches cannot be checked, or no cache at all. {ANEW}"
        )
    files.checked_facts(folder, WHAT, ANEW)
    return tf.data.Dataset.load(str(path))


@opened_by(open_cache)
def teacher_cache(
    teacher: keras.Model,
    penalties: Sequence[Penalty],
    data: tuple[Samples, ...] | Dataset,
    *,
    path: PathLike | None = None,
    batch_size: int = 128,
    teacher_inputs: Callable[[Tensor], Tensor] | None = None,
) -> Dataset:
    """What the penalties of a `Distiller` need from the teacher, computed once for some data.

    The teacher runs once over the data, in inference mode. A `Distiller` without a teacher trains
    on the result as it would with the teacher in memory: the penalties see the same
    representations, whatever the order of the samples and the batches.

    Args:
        teacher: Trained model.
        penalties: List of `Penalty`, those of the distiller; only what they tap is stored.
        data: Arrays ``(x, y)`` or ``(x, y, sample_weight)``, each of which may be a structure of
            arrays; or a `tf.data.Dataset` of such batches, finite and without augmentation.
        path: Folder to write the cache to; ``None`` keeps it in memory. The folder appears only
            when it is complete. If it already holds the cache of the same teacher, teacher inputs,
            taps and data, that is checked and opened. ``lgg.teacher_cache.open(path)`` opens it
            without any of these, for instance in another process, and raises if a file was changed.
        batch_size: Number of samples that the teacher sees at a time, if ``data`` are arrays.
        teacher_inputs: Function, or Keras layer, from the inputs in ``data`` to the teacher's, if
            student and teacher see the data differently; as for `Distiller`.

    Returns:
        `tf.data.Dataset` of single samples, ready for ``.shuffle(...).batch(...)``, with the inputs
        ``{"inputs": x, "teacher": {tap: representation}}`` instead of x. Representations are
        pooled as the penalties ask.

    Raises:
        OSError: If the cache cannot be written.
        ValueError: If the data changes from one pass to the next, as with augmentation, or never
            ends; if a tap is unknown; if ``path`` holds anything but the complete cache of this
            teacher, these taps and this data.

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

    held = None if path is None else _facts_of_existing(path)
    wanted = _wanted(teacher, penalties)
    source = _Source(data, batch_size)
    runner = AskedTeacher(teacher, wanted, teacher_inputs)

    def rows():
        for x, *rest in source.batches():
            yield ({INPUTS: x, TEACHER: runner.predict_on_batch(x)}, *rest)

    if path is None:
        parts = list(rows())
        source.check_unchanged()
        return tf.data.Dataset.from_tensor_slices(
            keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        )
    first = next(rows(), None)  # which also builds a teacher that was not built
    source.check_unchanged()
    facts = {
        "samples": source.fingerprint.count,
        "taps": sorted(wanted),
        "data": source.fingerprint.digest,
        "teacher": teacher_fingerprint(teacher),
        "teacher_inputs": inputs_fingerprint(teacher_inputs, source.fingerprint.probe),
    }
    if held is not None:
        _check_same(path, facts, held)
        return tf.data.Dataset.load(str(path))
    signature = keras.tree.map_structure(
        lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), first
    )
    with files.beside(path) as unfinished:
        samples = tf.data.Dataset.from_generator(rows, output_signature=signature).unbatch()
        samples.save(str(unfinished))
        source.check_unchanged()
        _check_count(unfinished, facts["samples"])
        files.write_manifest(unfinished, facts)
    return tf.data.Dataset.load(str(path))


def split_cached(x):
    """``(inputs, teacher)`` of a batch of `teacher_cache`, or ``(x, None)`` for any other."""
    if isinstance(x, dict) and set(x) == {INPUTS, TEACHER}:
        return x[INPUTS], x[TEACHER]
    return x, None


def cached_name(path, penalty):
    """The name in the cache of a tap, or of the output, as a penalty reads it."""
    signs = [penalty.pool, None if penalty.mask is None else f"mask={penalty.mask}"]
    return " ".join([OUTPUTS if path is None else path, *(sign for sign in signs if sign)])


class AskedTeacher(keras.Model):
    """A model that returns what the cache stores of a teacher, by name.

    Args:
        teacher: The teacher.
        wanted: Dict from names to ``(path, penalty)``; the path is ``None`` for the output.
        teacher_inputs: Function from the inputs of the data to the teacher's, or ``None``.
    """

    def __init__(self, teacher, wanted, teacher_inputs):
        super().__init__(autocast=False, dtype=teacher.dtype_policy)
        self.teacher = teacher
        self._wanted = tuple(wanted.items())
        self._inputs_of = teacher_inputs or (lambda x: x)
        self._tapped = Tapped(teacher, [path for path, _ in wanted.values() if path is not None])
        self.built = teacher.built

    def call(self, inputs):
        inputs = self._inputs_of(inputs)
        outputs, seen = self._tapped(inputs, training=False)
        seen = {**seen, None: seen_output(self.teacher, inputs, outputs)}
        return {name: seen[path].pooled_for(penalty) for name, (path, penalty) in self._wanted}


class _Source:
    """The data in batches, which must be the same in every pass."""

    def __init__(self, data, batch_size):
        import tensorflow as tf

        self._are_arrays = isinstance(data, tuple)
        if self._are_arrays:
            data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
        elif not isinstance(data, tf.data.Dataset):
            expected = "a tuple of arrays (x, y) or a tf.data.Dataset"
            raise invalid("data", expected, type(data).__name__)
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise invalid("data", "a finite dataset", "one that repeats without end")
        if data.cardinality() == 0:
            raise invalid("data", "at least one sample", "none")
        self._data = data
        self._known = set()
        self._has_changed = False

    @functools.cached_property
    def fingerprint(self):
        """The fingerprint of all the data, for which it is read once."""
        found = DataFingerprint()
        for batch in self._data.as_numpy_iterator():
            digests = sample_digests(batch)
            found.add(batch, digests)
            if not self._are_arrays:
                self._known.update(digests)
        if not found.count:
            raise invalid("data", "at least one sample", "none")
        return found

    def batches(self):
        """Iterator over all batches, which stops at a change.

        An error raised here would come out of TensorFlow as a different one: see `check_unchanged`.
        """
        if self._are_arrays:
            yield from self._data.as_numpy_iterator()
            return
        before, now = self.fingerprint, DataFingerprint()
        for batch in self._data.as_numpy_iterator():
            digests = sample_digests(batch)
            now.add(batch, digests)
            self._has_changed = not self._known.issuperset(digests)
            if self._has_changed:
                return
            yield batch
        self._has_changed = now.digest != before.digest

    def check_unchanged(self):
        if self._has_changed:
            raise ValueError(
                "The data change from one pass to the next. Expected the same samples each time, "
                "since the teacher sees each of them once. Received: other samples in the second "
                "pass than in the first, as with augmentation. Cache the data without "
                "augmentation, or train with the teacher in memory: "
                "lgg.Distiller(teacher, student, penalties)."
            )


def _wanted(teacher, penalties):
    """All that the penalties need from the teacher: a dict from names to a path and a penalty."""
    return {
        cached_name(path, penalty): (path, penalty)
        for penalty in check_penalties(penalties)
        for tap, _ in teacher_student_taps(penalty)
        for path in ([None] if tap is None else paths_of(teacher, tap))
    }


def _facts_of_existing(path):
    """The facts about the cache in a folder; ``None`` if there is no folder."""
    folder = pathlib.Path(path)
    if not folder.exists():
        return None
    if not (folder / files.MANIFEST).is_file():
        raise invalid(
            "path",
            "a folder that does not exist yet, or one of a whole cache",
            f"{path}, which exists and has no '{files.MANIFEST}'",
        )
    return files.checked_facts(folder, WHAT, ANEW)


def _check_same(path, asked, held):
    for name, words in FACTS.items():
        if held.get(name) != asked[name]:
            raise ValueError(
                f"The folder '{path}' holds the cache of something else. Expected the {words} "
                f"{asked[name]}, as in the arguments. Received: {held.get(name)}. Name another "
                "`path`, or delete the folder to write it again."
            )


def _check_count(folder, count):
    """Raise unless a dataset can be read to its end, and has as many samples as it should."""
    import tensorflow as tf

    found = tf.data.Dataset.load(str(folder)).reduce(np.int64(0), lambda n, _: n + 1).numpy()
    if found != count:
        raise OSError(
            f"The cache could not be written. Expected {count} samples in it. Received: {found}. "
            "Check whether the disk is full."
        )
