"""A classifier at inference, and its gradients, on every backend."""

import contextlib
import functools

import keras
import numpy as np
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.arrays import REPRESENTATIONS, host_array
from keras_lgg.robustness.inputs import arrays, each, filled, rows
from keras_lgg.types import ArrayLike


class Network:
    """A classifier at inference, compiled once, from NumPy inputs to NumPy outputs.

    Attributes:
        model: The Keras model.
        from_logits: Whether it returns logits, rather than probabilities.
        batch_size: Number of samples at a time.
    """

    def __init__(self, model, *, from_logits=True, batch_size=256):
        if not isinstance(model, keras.Model) or not model.built:
            received = f"{type(model).__name__}, not built" if hasattr(model, "built") else model
            raise checks.invalid("model", "a Keras model that has its weights", received)
        self.model = model
        self.from_logits = from_logits
        self.batch_size = batch_size
        self._forward, self._gradient_of = _COMPILERS[keras.backend.backend()](model)

    def outputs(self, inputs):
        """Outputs ``(n, classes)`` in float32, for an array ``(n, ...)`` or several."""
        return self._in_batches(self._forward, inputs).astype("float32")

    def loss_gradient(self, images, labels):
        """Gradient of the summed cross-entropy with respect to the images, in their shape."""
        return self._in_batches(self._loss_gradient, images, labels.astype("int32"))

    def output_gradient(self, images, classes):
        """Gradient of one class's output per sample with respect to the pixels."""
        return self._in_batches(self._output_gradient, images, classes.astype("int32"))

    @functools.cached_property
    def _loss_gradient(self):
        return self._gradient_of(functools.partial(_cross_entropy, from_logits=self.from_logits))

    @functools.cached_property
    def _output_gradient(self):
        return self._gradient_of(_chosen)

    def _in_batches(self, function, inputs, *targets):
        """All full batches have one compiled shape; the last batch is filled up to a power of 2."""
        results, total = [], len(arrays(inputs)[0])
        for start in range(0, total, self.batch_size):
            n = min(self.batch_size, total - start)
            size = min(self.batch_size, 1 << (n - 1).bit_length())
            parts = [filled(rows(x, start, start + n), size) for x in (inputs, *targets)]
            results.append(ops.convert_to_numpy(function(*parts))[:n])
        return np.concatenate(results)


def input_gradient(
    model: keras.Model,
    x: ArrayLike,
    labels: ArrayLike,
    *,
    from_logits: bool = True,
    batch_size: int = 256,
) -> np.ndarray:
    r"""Gradient of the summed cross-entropy of a classifier with respect to its pixels.

    For images :math:`x_i` with labels :math:`y_i`, and p the probabilities that the model predicts,
    it is

    .. math::

        \nabla_x \sum_i - \log p_{y_i}(x_i)

    The model runs with ``training=False`` and stays as it was. The gradient is compiled once per
    call: pass all images in one.

    Args:
        model: Keras model from float32 images to ``(n, classes)``.
        x: Images of shape ``(n, ...)``, any numbers; computed in float32.
        labels: Integer classes of shape ``(n,)``.
        from_logits: Whether the model returns logits, rather than probabilities.
        batch_size: Number of images at a time. The gradient does not depend on it.

    Returns:
        float32 NumPy array of the shape of ``x``.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg import robustness
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
        >>> model.set_weights([np.array([[1.0, -1.0], [0.0, 0.0]])])
        >>> robustness.input_gradient(model, np.zeros((1, 2)), np.array([0])).tolist()
        [[-1.0, 0.0]]

    Reference: it is the gradient that FGSM follows: Goodfellow et al., "Explaining and harnessing
    adversarial examples", ICLR 2015, https://arxiv.org/abs/1412.6572
    """
    x = host_array("x", x, REPRESENTATIONS).astype("float32")
    if x.ndim < 2 or 0 in x.shape:
        raise checks.invalid("x", REPRESENTATIONS, f"shape {x.shape}")
    labels = host_array("labels", labels, "integer classes of shape (n,)")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        received = f"{labels.dtype} of shape {labels.shape}"
        raise checks.invalid("labels", "integer classes of shape (n,)", received)
    checks.check_same_length(labels=labels, x=x)
    outputs = getattr(model, "outputs", None)
    if outputs and labels.max() >= (outputs[0].shape[-1] or np.inf):
        expected = f"integer classes below {outputs[0].shape[-1]}, the width of the output"
        raise checks.invalid("labels", expected, f"labels up to {labels.max()}")
    network = Network(model, from_logits=from_logits, batch_size=batch_size)
    return network.loss_gradient(x, labels)


@contextlib.contextmanager
def unchanged(model):
    """Restores every variable of the model afterwards, whatever happens inside."""
    before = [(variable, np.array(ops.convert_to_numpy(variable))) for variable in model.variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _cross_entropy(outputs, labels, from_logits):
    p_or_logits = _in_float32(outputs)
    if from_logits:
        return -_chosen(ops.log_softmax(p_or_logits), labels)
    return -_chosen(ops.log(ops.maximum(p_or_logits, 1e-30)), labels)


def _chosen(outputs, classes):
    outputs = _in_float32(outputs)
    return ops.sum(outputs * ops.one_hot(classes, outputs.shape[-1], dtype=outputs.dtype))


def _in_float32(outputs):
    if not hasattr(outputs, "dtype"):
        received = f"a {type(outputs).__name__} of outputs"
        raise checks.invalid("model", "a model with one output, (n, classes)", received)
    return ops.cast(outputs, keras.backend.result_type(outputs.dtype, "float32"))


def _compile_tensorflow(model):
    import tensorflow as tf

    def gradient_of(objective):
        @tf.function(reduce_retracing=True)
        def gradient(x, target):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                total = objective(model(x, training=False), target)
            return tape.gradient(total, x, unconnected_gradients="zero")

        return lambda x, target: gradient(tf.constant(x), tf.constant(target))

    forward = tf.function(lambda x: _in_float32(model(x, training=False)), reduce_retracing=True)
    return lambda x: forward(each(tf.constant, x)), gradient_of


def _compile_jax(model):
    import jax

    def state():
        return [v.value for v in model.trainable_variables], [
            v.value for v in model.non_trainable_variables
        ]

    def call(x, state):
        return _in_float32(model.stateless_call(*state, x, training=False)[0])

    def gradient_of(objective):
        gradient = jax.jit(jax.grad(lambda x, target, state: objective(call(x, state), target)))
        return lambda x, target: gradient(x, target, state())

    forward = jax.jit(call)
    return lambda x: forward(x, state()), gradient_of


def _compile_torch(model):
    import torch

    def forward(x):
        with torch.no_grad():
            return _in_float32(model(each(ops.convert_to_tensor, x), training=False))

    def gradient_of(objective):
        def gradient(x, target):
            with torch.enable_grad():
                x = ops.convert_to_tensor(x).requires_grad_()
                total = objective(model(x, training=False), ops.convert_to_tensor(target))
                return torch.autograd.grad(total, x)[0]

        return gradient

    return forward, gradient_of


_COMPILERS = {"tensorflow": _compile_tensorflow, "jax": _compile_jax, "torch": _compile_torch}
