"""The networks of the examples, with the names of the layers that the examples tap.

All take images ``(n, height, width, channels)`` and give ``(n, outputs)``: class logits, or an
embedding. The taps are the ReLUs that follow each block or group, as in the papers' experiments:
on non-negative representations every similarity is at least 0.

    PreActResNet18   He et al., "Identity mappings in deep residual networks", ECCV 2016
    WideResNet       Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016
    ViT              Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021
"""

import keras
from keras import layers

BLOCKS = [f"block{i}" for i in range(1, 9)]  # taps of `preact_resnet18`, the ReLU after each
# As in the authors' released code: both ReLUs of each block, without the last of the network.
BLOCK_RELUS = [name for i in range(1, 9) for name in (["stem", *BLOCKS][i - 1], f"block{i}_inner")]
GROUPS = ["group1", "group2", "group3"]  # taps of `wide_resnet`
STAGES = ["stage1", "stage2", "stage3"]  # taps of `small_cnn`
ENCODERS = ["encoder1", "encoder2", "encoder3"]  # taps of `vision_transformer`
PATCHES = 4  # along each side of an image


def preact_resnet18(shape, outputs, *, width=64, constraint=None):
    """Four stages of two blocks each, of ``width`` to ``8 * width`` channels."""
    inputs = keras.Input(shape)
    x = convolution(inputs, width, constraint=constraint)
    opening, block = "stem", 0
    for stage in range(4):
        for stride in (1 if stage == 0 else 2, 1):
            block += 1
            x = preact_block(
                x, width * 2**stage, stride, constraint, opening=opening, name=f"block{block}"
            )
            opening = f"block{block}"
    x = head(x, outputs, opening, constraint)
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
    opening = "stem"
    for group, group_name in enumerate(GROUPS):
        channels = max(1, round(16 * width * 2**group))
        for block in range(blocks):
            stride = 2 if group > 0 and block == 0 else 1
            name = group_name if block == blocks - 1 else f"{group_name}_{block + 1}"
            x = preact_block(x, channels, stride, constraint, opening=opening, name=name)
            opening = name
    x = head(x, outputs, opening, constraint)
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


def vision_transformer(shape, outputs, *, width=64, heads=4, constraint=None):
    """Attention between 4 x 4 patches, three blocks, and the mean of the patches.

    As everywhere here, what is tapped follows a ReLU: that of the layers after the attention.
    """
    inputs = keras.Input(shape)
    sides = [side // PATCHES for side in shape[:2]]
    x = layers.Conv2D(width, sides, sides, use_bias=False, kernel_constraint=constraint)(inputs)
    # A bias for each place tells a patch where it lies.
    x = layers.Reshape((PATCHES**2, width))(x)
    x = layers.EinsumDense("npc,cd->npd", (PATCHES**2, width), bias_axes="pd")(x)
    for name in ENCODERS:
        x = attention_block(x, width, heads, constraint, name=name)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    x = layers.Dense(outputs, kernel_constraint=constraint)(x)
    return keras.Model(inputs, x, name="vision_transformer")


def attention_block(x, width, heads, constraint, *, name):
    """LayerNorm, attention, LayerNorm, two dense layers, and the shortcuts.

    ``name`` names the ReLU, and ``<name>_sum`` the sum with the shortcut.
    """
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(2 * width, kernel_constraint=constraint)(y)
    y = layers.Dense(width, kernel_constraint=constraint)(layers.ReLU(name=name)(y))
    return layers.Add(name=f"{name}_sum")([x, y])


def preact_block(x, channels, stride, constraint, *, opening, name):
    """BatchNorm, ReLU, convolution, twice, and the shortcut.

    ``opening`` names the first ReLU, which closes what came before; the second is
    ``<name>_inner``, and the sum with the shortcut ``<name>_sum``.
    """
    opened = normalized_relu(x, opening)
    shortcut = x
    if stride != 1 or x.shape[-1] != channels:
        shortcut = convolution(opened, channels, stride, size=1, constraint=constraint)
    x = convolution(opened, channels, stride, constraint=constraint)
    x = convolution(normalized_relu(x, f"{name}_inner"), channels, constraint=constraint)
    return layers.Add(name=f"{name}_sum")([shortcut, x])


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
