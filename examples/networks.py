"""The networks of the examples, with the names of the layers that the examples tap.

All take images ``(n, height, width, channels)`` and give ``(n, outputs)``: class logits, or an
embedding. The taps are the ReLUs that follow each block or group, as in the papers' experiments:
on non-negative representations every similarity is at least 0.

    PreActResNet18   He et al., "Identity mappings in deep residual networks", ECCV 2016
    WideResNet       Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016
"""

import keras
from keras import layers

BLOCKS = [f"block{i}" for i in range(1, 9)]  # taps of `preact_resnet18`
GROUPS = ["group1", "group2", "group3"]  # taps of `wide_resnet`
STAGES = ["stage1", "stage2", "stage3"]  # taps of `small_cnn`


def preact_resnet18(shape, outputs, *, width=64, constraint=None):
    """Four stages of two blocks each, of ``width`` to ``8 * width`` channels."""
    inputs = keras.Input(shape)
    x = convolution(inputs, width, constraint=constraint)
    names = iter([None, *BLOCKS])
    for stage in range(4):
        for stride in (1 if stage == 0 else 2, 1):
            x = preact_block(x, width * 2**stage, stride, next(names), constraint)
    x = head(x, outputs, next(names), constraint)
    return keras.Model(inputs, x, name="preact_resnet18")


def wide_resnet(shape, outputs, *, depth=28, width=1, constraint=None):
    """WideResNet-depth-width: three groups of ``(depth - 4) / 6`` blocks; 0.5 is a valid width."""
    blocks, remainder = divmod(depth - 4, 6)
    if remainder or blocks < 1:
        raise ValueError(
            "Invalid value for argument `depth`. Expected 6 n + 4, such as 10, 16 or 28. "
            f"Received: depth={depth}."
        )
    inputs = keras.Input(shape)
    x = convolution(inputs, 16, constraint=constraint)
    names = iter([None, *GROUPS])
    for group in range(3):
        channels = max(1, round(16 * width * 2**group))
        for block in range(blocks):
            stride = 2 if group > 0 and block == 0 else 1
            name = next(names) if block == 0 else None
            x = preact_block(x, channels, stride, name, constraint)
    x = head(x, outputs, next(names), constraint)
    return keras.Model(inputs, x, name="wide_resnet")


def small_cnn(shape, outputs, *, width=16, constraint=None):
    """Three convolutions of ``width`` to ``4 * width`` channels, each halving the image."""
    inputs = x = keras.Input(shape)
    for stage, name in enumerate(STAGES):
        x = convolution(x, width * 2**stage, constraint=constraint)
        x = layers.MaxPooling2D()(normalized_relu(x, name))
    x = layers.Flatten()(x)
    x = layers.Dense(outputs, kernel_constraint=constraint)(x)
    return keras.Model(inputs, x, name="small_cnn")


def preact_block(x, channels, stride, name, constraint):
    """BatchNorm, ReLU, convolution, twice; the ReLU that opens it closes what came before."""
    opened = normalized_relu(x, name)
    shortcut = x
    if stride != 1 or x.shape[-1] != channels:
        shortcut = convolution(opened, channels, stride, size=1, constraint=constraint)
    x = convolution(opened, channels, stride, constraint=constraint)
    x = convolution(normalized_relu(x), channels, constraint=constraint)
    return layers.Add()([shortcut, x])


def head(x, outputs, name, constraint):
    x = layers.GlobalAveragePooling2D()(normalized_relu(x, name))
    return layers.Dense(outputs, kernel_constraint=constraint)(x)


def normalized_relu(x, name=None):
    # 0.9 (0.99 by default): the short runs of the examples have few steps to average over.
    return layers.ReLU(name=name)(layers.BatchNormalization(momentum=0.9)(x))


def convolution(x, channels, stride=1, *, size=3, constraint=None):
    convolve = layers.Conv2D(
        channels,
        size,
        stride,
        padding="same",
        use_bias=False,  # a BatchNormalization follows, here or in the next block
        kernel_initializer="he_normal",
        kernel_constraint=constraint,
    )
    return convolve(x)
