"""A step in parts on two devices of JAX: which operations of its program bring rows together.

python tests/support/parts_on_devices.py
"""

import os

os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2"]
)

import json
import re

import jax
import keras
import numpy as np
from keras import layers

import keras_lgg as lgg

X = np.random.default_rng(0).normal(size=(128, 40)).astype("float32")
Y = np.arange(128, dtype="int32") % 3


def main():
    devices = keras.distribution.list_devices()
    parallel = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    keras.distribution.set_distribution(parallel)
    hidden = [layers.Dense(30, "relu", name=name) for name in ("h1", "h2")]
    base = keras.Sequential([keras.Input((40,)), *hidden, layers.Dense(3)])
    penalty = lgg.Penalty(lgg.losses.SmoothnessVariation(num_classes=3), ["h1", "h2"], 0.01)
    model = lgg.GeometryModel(base, [penalty], micro_batch=16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    model.fit(X, Y, batch_size=128, verbose=0)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)
    batch = [
        jax.device_put(array, parallel.get_data_layout(array.shape).backend_layout)
        for array in (X, Y)
    ]
    program = jax.jit(model.train_step).lower(state, tuple(batch)).compile().as_text()
    print(json.dumps(sorted(set(re.findall(r"(all-gather|all-reduce|all-to-all)\(", program)))))


if __name__ == "__main__":
    main()
