"""Convolutional, denoising and variational autoencoders whose latents are tensors (H, W, C).

[1] Shrivastava, Rameshan, Agnihotri, "Latent space characterization of autoencoder variants",
    arXiv 2412.04755.
[2] Vincent et al., "Extracting and composing robust features with denoising autoencoders", ICML
    2008.
[3] Kingma and Welling, "Auto-encoding variational Bayes", arXiv 1312.6114.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_lgg import checks
from keras_lgg.types import DType, Tensor

STRIDES = 4  # of the encoder as a whole
LOG_VARIANCE = 10  # the largest; the smallest is its negative: so its exponential stays finite


def build_cae(
    input_shape: Sequence[int],
    *,
    channels: int = 128,
    use_bias: bool = False,
    latent_activation: str | Callable[[Tensor], Tensor] | None = "relu",
) -> keras.Model:
    r"""A convolutional autoencoder, compiled and ready for ``model.fit(x, x, batch_size=128)``.

    Three 3x3 convolutions turn an image x into a latent with a quarter of its height and width; two
    transposed convolutions and a last convolution turn that into an image :math:`\hat x`. The loss
    is the binary cross-entropy, averaged over the P pixels,

    .. math::

        \mathcal{L} = -\frac{1}{P} \sum_{p=1}^{P} \bigl( x_p \log \hat x_p
        + (1 - x_p) \log(1 - \hat x_p) \bigr) ,

    and the optimizer is Adam with a learning rate of 1e-3.

    Args:
        input_shape: Shape of an image ``(height, width, channels)``, with height and width
            multiples of 4; pixels are in [0, 1].
        channels: Number of channels C of the latent ``(H, W, C)``, at least ``H * W``, so that the
            covariance of the channels is singular.
        use_bias: Whether the convolutions of the encoder have biases. Without them, blank
            background has a latent of zeros, as in the published ranks. The decoder has biases.
        latent_activation: Activation of the latent; the other layers of the encoder have "relu".

    Returns:
        Functional `keras.Model` of two nested models, ``"encoder"`` and ``"decoder"``:
        ``model.get_layer("encoder")``.

    Raises:
        ValueError: If the shape is not as above, or there are too few channels.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> model = manifolds.build_cae((8, 8, 1))
        >>> model.get_layer("encoder").output_shape
        (None, 2, 2, 128)
        >>> x = np.zeros((4, 8, 8, 1), "float32")
        >>> _ = model.fit(x, x, verbose=0)

    Reference: Shrivastava, Rameshan and Agnihotri, "Latent space characterization of autoencoder
    variants", 2024, https://arxiv.org/abs/2412.04755
    """
    _check_sizes(input_shape, channels)
    inputs = keras.Input(input_shape)
    latent = _encoder(input_shape, channels, use_bias, latent_activation)(inputs)
    outputs = _decoder(input_shape, channels)(latent)
    return _compiled(inputs, outputs, "binary_crossentropy", "cae")


def build_dae(
    input_shape: Sequence[int],
    *,
    channels: int = 128,
    use_bias: bool = False,
    latent_activation: str | Callable[[Tensor], Tensor] | None = "relu",
    noise: float = 0.5,
    seed: int | None = None,
) -> keras.Model:
    r"""A denoising autoencoder: `build_cae` with a `Corruption` of its input in training.

    The loss compares the output for a noisy image with the clean image x. In training, an image is
    disturbed by Gaussian noise n whose strength s is drawn for each image, up to the largest one
    :math:`s_{\max}`:

    .. math::

        \tilde x = \operatorname{clip}_{[0, 1]}(x + s n), \qquad
        s \sim U(0, s_{\max}), \qquad n \sim \mathcal{N}(0, I)

    Train it by ``model.fit(x, x, batch_size=128)``, on clean images: the noise is added inside.

    Args:
        input_shape: Shape of an image ``(height, width, channels)``, with height and width
            multiples of 4; pixels are in [0, 1].
        channels: Number of channels C of the latent ``(H, W, C)``, at least ``H * W``, so that the
            covariance of the channels is singular.
        use_bias: Whether the convolutions of the encoder have biases. Without them, blank
            background has a latent of zeros, as in the published ranks. The decoder has biases.
        latent_activation: Activation of the latent; the other layers of the encoder have "relu".
        noise: Largest standard deviation :math:`s_{\max}` of the noise, a positive number.
        seed: Integer, for the noise.

    Returns:
        Functional `keras.Model` of a layer ``"corruption"`` and two nested models, ``"encoder"``
        and ``"decoder"``.

    Raises:
        ValueError: If the shape is not as above, there are too few channels, or ``noise`` is not
            positive.

    Example:
        >>> from keras_lgg import manifolds
        >>> [layer.name for layer in manifolds.build_dae((8, 8, 1)).layers[1:]]
        ['corruption', 'encoder', 'decoder']

    Reference: Vincent et al., "Extracting and composing robust features with denoising
    autoencoders", ICML 2008; this network: Shrivastava, Rameshan and Agnihotri, "Latent space
    characterization of autoencoder variants", 2024, https://arxiv.org/abs/2412.04755
    """
    _check_sizes(input_shape, channels)
    checks.check_positive("noise", noise)
    inputs = keras.Input(input_shape)
    corrupted = Corruption(noise, seed=seed, name="corruption")(inputs)
    latent = _encoder(input_shape, channels, use_bias, latent_activation)(corrupted)
    outputs = _decoder(input_shape, channels)(latent)
    return _compiled(inputs, outputs, "binary_crossentropy", "dae")


def build_vae(
    input_shape: Sequence[int],
    *,
    channels: int = 128,
    use_bias: bool = False,
    latent_activation: str | Callable[[Tensor], Tensor] | None = "relu",
    beta: float = 1.0,
    seed: int | None = None,
) -> keras.Model:
    r"""A variational autoencoder whose latent is a tensor of independent Gaussians.

    Its encoder has the convolutions of `build_cae`, the last of them named ``"trunk"``, followed by
    two 1x1 convolutions with biases for the mean :math:`\mu` and the logarithm of the variance,
    which is clipped to -10 and 10. `Sampling` draws the latent z. The loss of an image x, with its
    reconstruction :math:`\hat x`, is the binary cross-entropy (BCE), summed over the pixels, and
    :math:`\beta` times the Kullback-Leibler divergence from the standard normal distribution:

    .. math::

        \mathcal{L} = \sum_p \text{BCE}(x_p, \hat x_p)
        + \beta \, \text{KL}\bigl( \mathcal{N}(\mu, \sigma^2) \,\|\, \mathcal{N}(0, I) \bigr)

    Train it by ``model.fit(x, x, batch_size=128)``.

    Args:
        input_shape: Shape of an image ``(height, width, channels)``, with height and width
            multiples of 4; pixels are in [0, 1].
        channels: Number of channels C of the latent ``(H, W, C)``, at least ``H * W``, so that the
            covariance of the channels is singular.
        use_bias: Whether the convolutions of the trunk have biases. The decoder has biases, and so
            have the convolutions for mean and log-variance.
        latent_activation: Activation of the trunk's last convolution; mean and log-variance are
            linear.
        beta: Factor :math:`\beta` of the divergence, at least 0.
        seed: Integer, for the samples.

    Returns:
        Functional `keras.Model` of nested models ``"encoder"`` and ``"decoder"``, with the layer
        ``"sampling"`` between them. Its encoder returns the mean and the log-variance; the model
        itself decodes samples, in inference, too.

    Raises:
        ValueError: If the shape is not as above, there are too few channels, or ``beta`` is
            negative.

    Example:
        >>> from keras_lgg import manifolds
        >>> model = manifolds.build_vae((8, 8, 1), beta=0.5, seed=0)
        >>> model.get_layer("encoder").output_shape
        [(None, 2, 2, 128), (None, 2, 2, 128)]

    Reference: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014,
    https://arxiv.org/abs/1312.6114; this network: Shrivastava, Rameshan and Agnihotri, "Latent
    space characterization of autoencoder variants", 2024, https://arxiv.org/abs/2412.04755
    """
    _check_sizes(input_shape, channels)
    inputs = keras.Input(input_shape)
    encoder = _encoder(input_shape, channels, use_bias, latent_activation, variational=True)
    latent = Sampling(beta, seed=seed, name="sampling")(*encoder(inputs))
    outputs = _decoder(input_shape, channels)(latent)
    return _compiled(inputs, outputs, SummedCrossentropy(), "vae")


@keras.saving.register_keras_serializable("keras_lgg")
class Corruption(layers.Layer):
    r"""Layer that adds Gaussian noise in training, and clips to [0, 1]; otherwise it does nothing.

    The standard deviation s is drawn for each image, uniformly from 0 to ``stddev``:

    .. math::

        \tilde x = \operatorname{clip}_{[0, 1]}(x + s n), \qquad
        s \sim U(0, \text{stddev}), \qquad n \sim \mathcal{N}(0, I)

    Args:
        stddev: The largest standard deviation, a positive number.
        seed: Integer, for the noise.
        **kwargs: ``name`` and the other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Images of shape ``(n, ...)``, in [0, 1].
        training: Whether to add the noise.

    Raises:
        ValueError: If ``stddev`` is not positive.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg import manifolds
        >>> x = np.full((2, 4, 4, 1), 0.5, "float32")
        >>> noisy = manifolds.Corruption(0.5, seed=0)(x, training=True)
        >>> bool(keras.ops.any(noisy != x))
        True

    Reference: Vincent et al., "Extracting and composing robust features with denoising
    autoencoders", ICML 2008
    """

    def __init__(self, stddev: float = 0.5, *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.check_positive("stddev", stddev)
        self.stddev, self.seed = stddev, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training:
            return inputs
        shape = ops.shape(inputs)
        one_each = (shape[0],) + (1,) * (len(shape) - 1)
        stddev = keras.random.uniform(
            one_each, 0.0, self.stddev, dtype=inputs.dtype, seed=self.generator
        )
        noise = keras.random.normal(shape, dtype=inputs.dtype, seed=self.generator)
        return ops.clip(inputs + stddev * noise, 0.0, 1.0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stddev": self.stddev, "seed": self.seed}


@keras.saving.register_keras_serializable("keras_lgg")
class Sampling(layers.Layer):
    r"""Layer that samples Gaussians, and penalises their divergence from the standard normal one.

    From the mean :math:`\mu` and the log-variance v it draws, in training and in inference,

    .. math::

        z = \mu + e^{v / 2} \varepsilon, \qquad \varepsilon \sim \mathcal{N}(0, I) ,

    and adds to the loss :math:`\beta` times the Kullback-Leibler divergence from the standard
    normal distribution,

    .. math::

        \text{KL} = \frac{1}{2} \sum_i \bigl( \mu_i^2 + e^{v_i} - 1 - v_i \bigr) ,

    summed over the latent and averaged over the batch, in float32 at least.

    Args:
        beta: Factor :math:`\beta` of the divergence, at least 0.
        seed: Integer, for the samples.
        **kwargs: ``name`` and the other arguments of `keras.layers.Layer`.

    Call arguments:
        mean: Tensor of shape ``(n, ...)``.
        log_variance: Tensor of the same shape.

    Raises:
        ValueError: If ``beta`` is negative.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> layer = manifolds.Sampling(seed=0)
        >>> z = layer(np.full((5, 3), 2.0, "float32"), np.zeros((5, 3), "float32"))
        >>> tuple(z.shape), float(layer.losses[0])  # 2² / 2 for each of the three
        ((5, 3), 6.0)

    Reference: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B,
    https://arxiv.org/abs/1312.6114
    """

    def __init__(self, beta: float = 1.0, *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if beta != 0:
            checks.check_positive("beta", beta)
        self.beta, self.seed = beta, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        wide = [
            ops.cast(x, keras.backend.result_type(x.dtype, "float32")) for x in (mean, log_variance)
        ]
        self.add_loss(self.beta * ops.mean(_divergence(*wide)))
        eps = keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.generator)
        return mean + ops.exp(0.5 * log_variance) * eps

    def compute_output_shape(
        self, mean_shape: tuple[int | None, ...], log_variance_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return mean_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta, "seed": self.seed}


@keras.saving.register_keras_serializable("keras_lgg")
class SummedCrossentropy(keras.losses.Loss):
    r"""Binary cross-entropy, summed over the pixels of an image and averaged over the batch.

    For an image x with its reconstruction :math:`\hat x`, the loss is

    .. math::

        - \sum_p \bigl( x_p \log \hat x_p + (1 - x_p) \log(1 - \hat x_p) \bigr)

    With the divergence that `Sampling` adds, it is the negative evidence lower bound in nats.

    Args:
        name: Name of the loss.
        reduction: How the losses of the images are combined, as for `keras.losses.Loss`; by default
            their mean.
        dtype: Dtype of the computations, or a dtype policy; by default that of Keras.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import manifolds
        >>> half = np.full((3, 2, 2, 1), 0.5, "float32")
        >>> round(float(manifolds.SummedCrossentropy()(half, half) / np.log(2)), 4)
        4.0

    Reference: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix C,
    https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        *,
        name: str | None = "summed_crossentropy",
        reduction: str | None = "sum_over_batch_size",
        dtype: DType | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        pixels = ops.binary_crossentropy(y_true, y_pred)
        return ops.sum(pixels, axis=tuple(range(1, len(pixels.shape))))


def _divergence(mean, log_variance):
    terms = 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance)
    return ops.sum(terms, axis=tuple(range(1, len(terms.shape))))


def _encoder(shape, channels, use_bias, latent_activation, *, variational=False):
    inputs = x = keras.Input(shape)
    for name, filters, strides, activation in (
        ("conv1", 32, 2, "relu"),
        ("conv2", 64, 2, "relu"),
        ("trunk" if variational else "latent", channels, 1, latent_activation),
    ):
        x = _convolution(
            filters, strides=strides, activation=activation, use_bias=use_bias, name=name
        )(x)
    if variational:
        mean = _convolution(channels, size=1, name="mean")(x)
        log_variance = _convolution(channels, size=1, name="log_variance")(x)
        x = [mean, ops.clip(log_variance, -LOG_VARIANCE, LOG_VARIANCE)]
    return keras.Model(inputs, x, name="encoder")


def _decoder(shape, channels):
    height, width, outputs = shape
    inputs = x = keras.Input((height // STRIDES, width // STRIDES, channels))
    for filters in (64, 32):
        x = layers.Conv2DTranspose(
            filters, 3, 2, padding="same", activation="relu", data_format="channels_last"
        )(x)
    return keras.Model(inputs, _convolution(outputs, activation="sigmoid")(x), name="decoder")


def _convolution(filters, *, size=3, **kwargs):
    return layers.Conv2D(filters, size, padding="same", data_format="channels_last", **kwargs)


def _compiled(inputs, outputs, loss, name):
    model = keras.Model(inputs, outputs, name=name)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    return model


def _check_sizes(input_shape, channels):
    expected = f"(height, width, channels), height and width multiples of {STRIDES}"
    if not isinstance(input_shape, (tuple, list)) or len(input_shape) != 3:
        raise checks.invalid("input_shape", expected, repr(input_shape))
    for size in input_shape:
        checks.check_positive_integer("input_shape", size)
    if any(size % STRIDES for size in input_shape[:2]):
        raise checks.invalid("input_shape", expected, input_shape)
    checks.check_positive_integer("channels", channels)
    positions = input_shape[0] * input_shape[1] // STRIDES**2
    if channels < positions:
        expected = (
            f"at least {positions}, the positions of the latent, so that the covariance of the "
            "channels is singular"
        )
        raise checks.invalid("channels", expected, channels)
