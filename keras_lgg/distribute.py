"""Training on several machines with TensorFlow, which ``fit`` of Keras 3 does not support.

Under `tf.distribute.MirroredStrategy`, and on JAX under `keras.distribution`, a model's own ``fit``
already trains on all devices. See :doc:`/backends`.
"""

import contextlib
from collections.abc import Sequence

import keras

from keras_lgg.checks import check_positive_integer
from keras_lgg.training.label_checks import ChecksLabels
from keras_lgg.types import Dataset

__all__ = ["fit"]


def __dir__():
    return __all__


def fit(
    model: keras.Model,
    data: Dataset,
    *,
    epochs: int = 1,
    validation_data: Dataset | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    initial_epoch: int = 0,
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """``model.fit`` under `tf.distribute.MultiWorkerMirroredStrategy`, for any Keras model.

    Every process calls it with the same data in the same order, in global batches, and each replica
    takes its part of every batch: the model sees what it would see on one device. Under any other
    strategy, and without one, this simply calls ``model.fit``.

    Create, build and compile the model under ``strategy.scope()``, and build its optimizer there as
    well: ``model.optimizer.build(model.trainable_variables)``. Callbacks run in every process. Give
    those that write files a separate place in each, and let them save in all of them, since reading
    a variable involves all processes.

    Args:
        model: A compiled Keras model, created under the strategy's scope; any Keras model will do.
        data: `tf.data.Dataset` of batches ``(x, y)`` or ``(x, y, sample_weight)``, of finite
            length. A batch holds at least one sample per replica. Keras's own losses average over
            the replicas, which is the mean over the batch if all have equally many samples.
        epochs: Number of the epoch at which to stop; 1 by default.
        validation_data: Dataset of the same form, evaluated after each epoch, or ``None``.
        callbacks: Keras callbacks. At each batch they get its number but no logs, since reading
            logs would make every step wait.
        initial_epoch: Number of the epoch at which to start; 0 by default.
        verbose: 0 for silence, 1 for a progress bar, 2 for one line per epoch; ``"auto"`` is 1 in
            the first process and 0 in the others.

    Returns:
        History of the losses and metrics, over all processes.

    Raises:
        ValueError: If the data is not a `tf.data.Dataset`, or a penalty cannot read the labels.

    Example:
        >>> import keras, numpy as np, tensorflow as tf, keras_lgg as lgg
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", "mse")
        >>> samples = np.ones((8, 2), "float32"), np.ones((8, 3), "float32")
        >>> data = tf.data.Dataset.from_tensor_slices(samples).batch(4)
        >>> history = lgg.distribute.fit(model, data, verbose=0)
        >>> sorted(history.history)
        ['loss']
    """
    check_positive_integer("epochs", epochs)
    options = {"epochs": epochs, "initial_epoch": initial_epoch, "callbacks": list(callbacks)}
    if not _has_several_workers(model):
        options |= {"validation_data": validation_data, "verbose": verbose, "shuffle": False}
        return model.fit(data, **options)
    _check_dataset("data", data)
    if validation_data is not None:
        _check_dataset("validation_data", validation_data)
    given = {"x": data}
    looks = model._checked(given) if isinstance(model, ChecksLabels) else contextlib.nullcontext()
    with looks:
        return _fit(model, given["x"], validation_data, verbose=verbose, **options)


def _has_several_workers(model):
    """Whether a model was created under a strategy with several processes."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _fit(model, data, validation_data, *, epochs, initial_epoch, callbacks, verbose):
    strategy = model.distribute_strategy
    history = keras.callbacks.History()
    if verbose == "auto":
        verbose = int(strategy.cluster_resolver.task_id == 0)
    listeners = keras.callbacks.CallbackList(
        [history, *callbacks],
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=epochs,
        steps=_known_length(data),
    )
    train, test = (_on_all(strategy, step) for step in (model.train_step, model.test_step))
    batches = _parts(strategy, data)
    held_out = None if validation_data is None else _parts(strategy, validation_data)
    model.stop_training = False
    listeners.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in range(initial_epoch, epochs):
        listeners.on_epoch_begin(epoch)
        logs = _epoch(model, train, batches, listeners)
        if held_out is not None:
            found = _epoch(model, test, held_out)
            logs |= {f"val_{name}": value for name, value in found.items()}
        listeners.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    listeners.on_train_end(logs)
    return history


def _on_all(strategy, step):
    """A compiled step of all replicas; its results are left in the metrics."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def compiled(batch):
        strategy.run(step, args=(batch,))

    return compiled


def _epoch(model, step, batches, listeners=None):
    """One pass over the data; returns the metrics over all replicas."""
    model.reset_metrics()
    for number, batch in enumerate(batches):
        if listeners is not None:
            listeners.on_train_batch_begin(number)
        step(batch)
        if listeners is not None:
            listeners.on_train_batch_end(number)
        if listeners is not None and model.stop_training:
            break
    return {name: float(value) for name, value in model.get_metrics_result().items()}


def _parts(strategy, data):
    """The data, distributed so that each replica of this process takes its part of every batch."""
    import tensorflow as tf

    count = strategy.num_replicas_in_sync

    def parts(context):
        here = count // context.num_input_pipelines
        first = context.input_pipeline_id * here
        numbers = tf.data.Dataset.range(first, first + here)
        return data.flat_map(
            lambda *batch: numbers.map(
                lambda i: tf.nest.map_structure(lambda x: _part(x, i, count), batch)
            )
        ).prefetch(here)

    return strategy.distribute_datasets_from_function(parts)


def _part(x, i, count):
    """The i-th of ``count`` parts of the rows, with a static number of rows if that is known."""
    import tensorflow as tf

    n = x.shape[0]
    if n is not None and n % count == 0:
        size = n // count
        return tf.ensure_shape(x[i * size : (i + 1) * size], (size, *x.shape[1:]))
    n = tf.shape(x, out_type="int64")[0]
    return x[i * n // count : (i + 1) * n // count]


def _known_length(data):
    length = int(data.cardinality())
    return length if length >= 0 else None


def _check_dataset(name, data):
    import tensorflow as tf

    if not isinstance(data, tf.data.Dataset):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a tf.data.Dataset of batches, from "
            f"which each replica takes its part. Received: {type(data).__name__}. Pass "
            "tf.data.Dataset.from_tensor_slices((x, y)).batch(...)."
        )
