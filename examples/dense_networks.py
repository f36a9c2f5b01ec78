"""What the examples that try weights on dense networks share: data, networks, scores."""

import warnings

import keras
import numpy as np
from common import outputs
from sklearn.neighbors import KNeighborsClassifier

# Grids hold weights that are too small or too large on purpose.
warnings.filterwarnings("ignore", "The penalty '.*' (adds next|drowns)", UserWarning)

BLOCKS = ["block1", "block2", "block3"]
SIGMAS = [0.0, 0.1, 0.2, 0.3, 0.4]  # of the noise, for pixels in [0, 1]


def prepared(arrays):
    """Flat images in [0, 1] and their labels, by split."""
    splits = {"train": arrays.train, "validation": arrays.validation, "test": arrays.test}
    return {
        split: (images.reshape(len(images), -1).astype("float32") / 255, labels)
        for split, (images, labels) in splits.items()
    }


def classifier(data, width):
    return keras.Sequential([*blocks(data, width), keras.layers.Dense(class_count(data))])


def class_count(data):
    return int(data["train"][1].max()) + 1


def blocks(data, width):
    layers = [keras.Input(data["train"][0].shape[1:])]
    for name in BLOCKS:
        layers += [
            keras.layers.Dense(width),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(name=name),
        ]
    return layers


def accuracy(network, data, split):
    images, labels = data[split]
    return 100 * np.mean(outputs(network, images).argmax(axis=1) == labels)


def under_noise(network, data, split):
    """The mean over the levels, and over ten draws each: the same ones for every network."""
    images, labels = data[split]
    images, labels = np.tile(images, (10, 1)), np.tile(labels, 10)
    noise = np.random.default_rng(0).standard_normal(images.shape, dtype="float32")
    scores = []
    for sigma in SIGMAS:
        noisy = np.clip(images + np.float32(sigma) * noise, 0, 1)
        scores.append(np.mean(outputs(network, noisy).argmax(axis=1) == labels))
    return 100 * np.mean(scores)


def neighbors(network, data, split):
    (images, labels), (held_out, expected) = data["train"], data[split]
    found = KNeighborsClassifier(10).fit(outputs(network, images), labels)
    return 100 * found.score(outputs(network, held_out), expected)


def embedder(data, width, outputs):
    """A network whose embeddings have a bounded scale, which graph smoothness needs."""
    normalization = keras.layers.BatchNormalization(momentum=0.9, scale=False, center=False)
    layers = [*blocks(data, width), keras.layers.Dense(outputs), normalization]
    return keras.Sequential(layers, name="embedder")


def fit(model, data, *, optimizer, loss, batch_size, epochs, seed, progress):
    # On CPU, XLA takes longer to compile under TensorFlow than these networks take to train.
    model.compile(optimizer, loss, jit_compile=keras.backend.backend() == "jax")
    keras.utils.set_random_seed(seed)  # the same order of batches for every variant
    model.fit(
        *data["train"],
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=[progress, keras.callbacks.TerminateOnNaN()],
    )
