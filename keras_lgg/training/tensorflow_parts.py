"""Parts of a batch on TensorFlow: one loop over them for outputs, another for gradients.

TensorFlow's own gradient of a loop would keep several copies of all outputs.
"""

import tensorflow as tf
from keras import ops
from tensorflow.python.eager import record  # nothing else tells which tapes are open


def run(part, size):
    """The outputs, losses and states of all parts, in one tuple, with gradients.

    Args:
        part: Function ``part(values, states, inputs)`` as in `keras_lgg.training.parts`.
        size: Number of samples in a part.
    """
    rows = _Rows(part.samples, size)
    wanted = [_may_be_differentiated(x) for x in part.inputs]

    @tf.custom_gradient
    def found(*tensors):
        given = tensors[: len(part.values)], tensors[len(part.values) :]
        with record.stop_recording():
            outputs, losses, states, befores = _forward(part, rows, *given)

        def gradient(*upstream):
            upstream = upstream[: len(outputs)], upstream[len(outputs) :][: len(losses)]
            return _backward(part, rows, *given, befores, wanted, *upstream)

        return (*outputs, *losses, *states), gradient

    return found(*part.values, *part.inputs)


def _forward(part, rows, values, inputs):
    """``(outputs, losses, states, befores)``, with the states before each part but the first."""
    outputs, losses, states = part(values, [], rows.first(inputs))

    def step(i, losses, states, places, befores):
        befores = _written(befores, i, states)
        found, more, states = part(values, states, rows.another(inputs, i))
        return _sums(losses, more), states, _written(places, i, found), befores

    places = [rows.places(x) for x in outputs]
    befores = [rows.places_of(x.shape, x.dtype) for x in states]
    losses, states, places, befores = rows.loop(step, losses, states, places, befores)
    return rows.joined(outputs, places), losses, states, befores


def _backward(part, rows, values, inputs, befores, wanted, of_outputs, of_losses):
    """Gradients with respect to values and inputs, given those of outputs and losses."""

    def step(i, sums, places):
        states = [places.read(i) for places in befores]
        given = [*rows.another(of_outputs, i), *of_losses]
        more, found = _of_part(part, values, states, rows.another(inputs, i), wanted, given)
        return _sums(sums, more), _written(places, i, found)

    given = [*rows.first(of_outputs), *of_losses]
    with tf.control_dependencies(given):  # or it might be merged with the first run
        again = [tf.identity(x) for x in rows.first(inputs)]
    sums, firsts = _of_part(part, values, [], again, wanted, given)
    sums, places = rows.loop(step, sums, [rows.places(x) for x in firsts])
    found = iter(rows.joined(firsts, places))
    return [*sums, *(next(found) if is_wanted else None for is_wanted in wanted)]


def _of_part(part, values, states, inputs, wanted, given):
    """Gradients of a part with respect to the values, and to inputs for which they are wanted."""
    watched = [*values, *(x for x, is_wanted in zip(inputs, wanted, strict=True) if is_wanted)]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(watched)
        outputs, losses, _ = part(values, states, inputs)
    pairs = [(x, g) for x, g in zip([*outputs, *losses], given, strict=True) if x.dtype.is_floating]
    targets, given = zip(*pairs, strict=True)
    found = tape.gradient(targets, watched, given, unconnected_gradients="zero")
    found = [tf.convert_to_tensor(x) for x in found]  # embeddings give slices
    return found[: len(values)], found[len(values) :]


def _may_be_differentiated(x):
    """Whether the gradient with respect to a tensor may be needed."""
    # If there is no tape here, there may be one around the function that is traced.
    return x.dtype.is_floating and (
        not record.could_possibly_record() or record.should_record_backprop([x])
    )


class _Rows:
    """The parts of a batch: a first one with what is left over, and others of equal size.

    The first is never empty. Shapes are known to XLA, too.

    Args:
        samples: Number of samples in the batch, an integer or a tensor.
        size: Number of samples in a part.
    """

    def __init__(self, samples, size):
        self._first, self._others = (samples - 1) % size + 1, (samples - 1) // size
        # XLA compiles the other parts even if there are none.
        self._size = size if isinstance(samples, int) else tf.minimum(size, samples)

    def first(self, tensors):
        return [_rows(x, 0, self._first) for x in tensors]

    def another(self, tensors, i):
        return [_rows(x, self._first + i * self._size, self._size) for x in tensors]

    def places(self, x):
        """Room for the tensors of the other parts that match ``x`` in the first."""
        return self.places_of((self._size, *ops.shape(x)[1:]), x.dtype)

    def places_of(self, shape, dtype):
        places = tf.TensorArray(dtype, tf.maximum(self._others, 1), clear_after_read=False)
        return places.write(0, tf.zeros(shape, dtype))  # the shape is known even if none is written

    def joined(self, firsts, places):
        """The tensors of the first part, joined with those of the others."""
        return [
            tf.concat([x, _rows(_flat(each.stack()), 0, self._others * self._size)], axis=0)
            for x, each in zip(firsts, places, strict=True)
        ]

    def loop(self, step, *carried):
        """``carried = step(i, *carried)`` for each of the others."""
        return tf.while_loop(
            lambda i, *_: i < self._others,
            lambda i, *carried: (i + 1, *step(i, *carried)),
            (tf.constant(0), *carried),
            parallel_iterations=1,
        )[1:]


def _rows(x, begin, count):
    """``count`` rows of a tensor; under XLA they may begin anywhere."""
    begins = [begin] + [0] * (len(x.shape) - 1)
    found = tf.slice(x, begins, [count, *ops.shape(x)[1:]])
    found.set_shape([count if isinstance(count, int) else None, *x.shape[1:]])
    return found


def _flat(x):
    """The parts of a tensor, one after the other."""
    return tf.reshape(x, (-1, *ops.shape(x)[2:]))


def _written(places, i, tensors):
    return [each.write(i, x) for each, x in zip(places, tensors, strict=True)]


def _sums(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]
