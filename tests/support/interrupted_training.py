"""A training that may be killed at any moment and started again.

python tests/support/interrupted_training.py MODEL CALLBACK BACKUP RESULT

CALLBACK is "keras" or "atomic". Prints each step that is done, and writes the weights that it ends
with. It goes on from what lies in the folder BACKUP.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import keras_lgg as lgg

MODEL, CALLBACK, BACKUP, RESULT = sys.argv[1:]
EPOCHS, BATCH = 6, 10
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8)).astype("float32")
Y = RNG.integers(0, 3, 60)


class Report(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)
        time.sleep(0.02)  # so that a kill meets a training that is under way


def network(width):
    """With all that has a state of its own: statistics, penalties, seeds."""
    x = keras.Input((8,))
    h1 = layers.Dense(width, "relu", name="h1")(x)
    h1 = layers.BatchNormalization()(h1)
    if CALLBACK == "atomic":  # Keras's own backup forgets the seeds
        h1 = layers.Dropout(0.3, seed=1)(h1)
    h2 = layers.Dense(width, "relu", name="h2")(h1)
    h2 = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation(), weight=0.1)([h1, h2])
    return keras.Model(x, layers.Dense(3)(h2))


def geometry_model():
    loss = lgg.losses.SmoothnessVariation(num_classes=3)
    return lgg.GeometryModel(network(16), [lgg.Penalty(loss, ["h1", "h2"], 0.01)])


def distiller():
    loss = lgg.losses.GraphDistillation(k=3)
    return lgg.Distiller(network(24), network(16), [lgg.Penalty(loss, [("h1", "h2")], 1.0)])


def main():
    keras.utils.set_random_seed(0)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    model = {"geometry_model": geometry_model, "distiller": distiller}[MODEL]()
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    backup = {
        "keras": keras.callbacks.BackupAndRestore,
        "atomic": lgg.callbacks.AtomicBackup,
    }[CALLBACK](BACKUP)
    # The order of the samples must be that of the epoch, whatever came before: here, always one.
    model.fit(X, Y, BATCH, EPOCHS, verbose=0, shuffle=False, callbacks=[Report(), backup])
    np.savez(RESULT, *model.get_weights())


if __name__ == "__main__":
    main()
