"""Batches shared by several replicas of a model, under `tf.distribute` and `keras.distribution`.

Under `tf.distribute` each replica sees its own part of the batch, and the sum of their losses is
differentiated. Under `keras.distribution`, on JAX, every program sees the whole batch.
"""

import keras
from keras import ops


def local_count():
    """How many replicas run this code, each on its part of the batch; 1 if it sees all of it."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def known_samples(n):
    """How many samples all replicas hold together; None if that is only known at run time.

    Args:
        n: How many this one holds, an integer or ``None``.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()

    def together(strategy, counts):
        counts = strategy.experimental_local_results(counts)  # one, where all are equal
        return None if None in counts else sum(counts) * context.num_replicas_in_sync // len(counts)

    return context.merge_call(together, args=(n,))


def graph_size(n, is_global):
    """How many samples a graph spans where this code sees ``n`` of them."""
    if not is_global:
        return n // split_count()
    if local_count() == 1:
        return n
    known = known_samples(n if isinstance(n, int) else None)
    return total(ops.cast(n, "float32")) if known is None else known


def total(x):
    """The sum of a tensor over all replicas, with gradients."""
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce("sum", x)


def gather(tensors):
    """The rows of all replicas in their order, with gradients, for a structure of tensors.

    They are summed over the replicas, each of which has zeros for the rows of the others:
    TensorFlow 2.21 cannot gather where each of several workers has one replica.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    own = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype="int32")
    flat = [x for x in keras.tree.flatten(tensors) if x is not None]
    counts = context.all_reduce("sum", own * ops.shape(flat[0])[0])
    before = ops.sum(counts * tf.cumsum(own, exclusive=True, reverse=True))
    after = ops.sum(counts * tf.cumsum(own, exclusive=True))

    def rows_of_all(x):
        if x is None:
            return None
        x = ops.convert_to_tensor(x)
        padded = tf.pad(x, [[before, after], *([0, 0] for _ in x.shape[1:])])
        return context.all_reduce("sum", padded)

    return keras.tree.map_structure(rows_of_all, tensors)


def split_count():
    """How many equal parts `keras.distribution` splits a batch into that this code sees whole."""
    distribution = keras.distribution.distribution()
    if distribution is None or distribution.batch_dim_name is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def on_each_part(function, count, tensors):
    """The values of a function on each part of a batch, stacked, for a structure of tensors."""
    import jax

    def split(x):
        return ops.reshape(x, (count, x.shape[0] // count, *x.shape[1:]))

    return jax.vmap(function)(keras.tree.map_structure(split, tensors))
