"""Trains by `lgg.distribute.fit`, alone or as one of several processes of TensorFlow.

python tests/support/worker_training.py                                   # one device
python tests/support/worker_training.py 127.0.0.1:9000 127.0.0.1:9001 0   # the first of two

It prints a JSON object: the history, what a callback was told, the weights, and the errors that
wrong data give.
"""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_lgg as lgg

*ADDRESSES, INDEX = sys.argv[1:] or ["0"]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(88, 10)).astype("float32")  # batches of 32, 32 and 24
Y = RNG.integers(0, 3, 88).astype("int32")
WEIGHTS = RNG.random(88).astype("float32")


class Told(keras.callbacks.Callback):
    """Counts what it is told, and ends the training after three epochs."""

    def __init__(self):
        super().__init__()
        self.batches = self.epochs = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.model.stop_training = self.epochs == 3


def model():
    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(4, "relu", name="h1"),
            layers.Dense(4, "relu", name="h2"),
            layers.Dense(3),
        ]
    )
    penalties = [
        lgg.Penalty(lgg.losses.SmoothnessVariation(num_classes=3), ["h1", "h2"], 1e-3),
        lgg.Penalty(lgg.losses.GraphVariation(), ["h1", "h2"], 0.01),
    ]
    model = lgg.GeometryModel(base, penalties)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


def strategy():
    if not ADDRESSES:
        return tf.distribute.get_strategy()
    task = {"type": "worker", "index": int(INDEX)}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": ADDRESSES}, "task": task})
    return tf.distribute.MultiWorkerMirroredStrategy()


def error(trained, data):
    try:
        lgg.distribute.fit(trained, data, verbose=0)
    except ValueError as raised:
        return str(raised)


def main():
    with strategy().scope():
        trained = model()
    weighted = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(32)
    even = tf.data.Dataset.from_tensor_slices((X, Y)).batch(22, drop_remainder=True)
    told = Told()
    options = {"epochs": 5, "verbose": 0, "callbacks": [told]}
    history = lgg.distribute.fit(trained, weighted, validation_data=even, **options).history
    report = {
        "history": history,
        "told": [told.batches, told.epochs],
        "weights": [w.tolist() for w in trained.base.get_weights()],
    }
    if ADDRESSES:
        wrong = tf.data.Dataset.from_tensor_slices((X, Y + 1)).batch(32)
        report["errors"] = [error(trained, (X, Y)), error(trained, wrong)]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
