"""One training on one device, on several of one machine, or in several processes.

    python examples/data_parallel.py                 # all GPUs of this machine, or its CPU
    python examples/data_parallel.py --devices 4     # its CPU as four devices

The devices may belong to several processes, on one machine or on many. Start each process by
itself, with its own index and the addresses of all:

    python examples/data_parallel.py --addresses 127.0.0.1:9000 127.0.0.1:9001 --process 0 &
    python examples/data_parallel.py --addresses 127.0.0.1:9000 127.0.0.1:9001 --process 1

A batch is split over the devices, and the latent geometry graph spans all of it, so the weights are
those of one device, up to rounding: the last line shows their norm. The default data, `--data
digits`, need only the extra ``datasets``; 20 epochs take a few seconds.
"""

# ruff: noqa: E402 (the devices are made before a backend starts)
import argparse
import contextlib
import json
import os
import time


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="digits", help="digits, or a name of TensorFlow Datasets")
    add("--data-dir", help="folder of TensorFlow Datasets (by default TFDS_DATA_DIR)")
    add("--devices", type=int, metavar="N", help="split the CPU into so many devices")
    add("--addresses", nargs="+", metavar="HOST:PORT", default=[], help="one per process")
    add("--process", type=int, default=0, metavar="I", help="index of this process")
    add("--seed", type=int, default=0)
    add("--epochs", type=int, default=20)
    add("--batch-size", type=int, default=128, help="samples on all devices together")
    add("--quick", action="store_true", help="2 epochs")
    args = parser.parse_args()
    args.processes = len(args.addresses) or 1
    if not 0 <= args.process < args.processes:
        parser.error(
            f"--process is {args.process}; expected 0 to {args.processes - 1}, "
            f"by the {len(args.addresses)} of --addresses."
        )
    if args.batch_size % (args.processes * (args.devices or 1)):
        parser.error(f"--batch-size {args.batch_size} does not split evenly over the devices.")
    return args


args = options()
if args.devices:  # before a backend starts, which counts its devices then
    devices = f"--xla_force_host_platform_device_count={args.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from progress import Progress

import keras_lgg as lgg
from keras_lgg import datasets

BACKEND = keras.backend.backend()


def distribute():
    """What the training ran on, in words, and on TensorFlow a strategy."""
    if BACKEND == "tensorflow":
        return on_tensorflow()
    if BACKEND == "jax":
        return on_jax(), None
    if args.devices or args.processes > 1:
        raise SystemExit(
            "Keras 3 trains on one device with PyTorch. Leave out --devices and --addresses, or "
            "set KERAS_BACKEND to tensorflow or jax."
        )
    return "PyTorch, one device", None


def on_tensorflow():
    import tensorflow as tf

    if args.devices:
        made = [tf.config.LogicalDeviceConfiguration()] * args.devices
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, made)
    if args.processes > 1:
        task = {"type": "worker", "index": args.process}
        cluster = {"worker": args.addresses}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        count = strategy.num_replicas_in_sync
        return f"TensorFlow, {count} devices of {args.processes} processes", strategy
    kind = "CPU" if args.devices or not tf.config.list_physical_devices("GPU") else "GPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if len(devices) == 1:
        return f"TensorFlow, {devices[0]}", None
    strategy = tf.distribute.MirroredStrategy(devices)
    return f"TensorFlow, MirroredStrategy over {', '.join(devices)}", strategy


def on_jax():
    if args.processes > 1:
        keras.distribution.initialize(args.addresses[0], args.processes, args.process)
    devices = keras.distribution.list_devices()
    if len(devices) == 1:
        return f"JAX, {devices[0]}"
    # Each process brings its own part of a batch.
    parallel = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    keras.distribution.set_distribution(parallel)
    processes = f" of {args.processes} processes" if args.processes > 1 else ""
    return f"JAX, DataParallel over {', '.join(devices)}{processes}"


def network(shape, classes):
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(128, "relu", name="hidden1"),
            layers.Dense(128, "relu", name="hidden2"),
            layers.Dense(classes, "softmax"),
        ]
    )


def batches(images, labels):
    """In one random order, the same in each process; on JAX it brings its part of each batch."""
    import tensorflow as tf

    order = np.random.default_rng(args.seed).permutation(len(images))
    data = tf.data.Dataset.from_tensor_slices((images[order], labels[order]))
    data = data.batch(args.batch_size, drop_remainder=True)
    if BACKEND == "jax":
        part = args.batch_size // args.processes
        mine = slice(args.process * part, (args.process + 1) * part)
        data = data.map(lambda x, y: (x[mine], y[mine]))
    return data.prefetch(1)


def main():
    ran_on, strategy = distribute()
    keras.utils.set_random_seed(args.seed)
    data = datasets.arrays(args.data, data_dir=args.data_dir)
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        base = network(data.train[0].shape[1:], data.classes)
        penalty = lgg.Penalty(lgg.losses.GraphVariation(), ["hidden1", "hidden2"])
        model = lgg.GeometryModel(base, [penalty])
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        model.optimizer.build(model.trainable_variables)
    start = time.perf_counter()
    epochs = 2 if args.quick else args.epochs
    progress = Progress(total=1)
    callbacks = [progress.training(args.data)] if args.process == 0 else []
    history = lgg.distribute.fit(
        model, batches(*data.train), epochs=epochs, callbacks=callbacks, verbose=0
    ).history
    progress.clear()
    seconds = time.perf_counter() - start
    weights = base.get_weights()
    keras.distribution.set_distribution(None)
    deployed = network(data.train[0].shape[1:], data.classes)  # a plain network, on one device
    deployed.set_weights(weights)
    images, labels = data.test
    accuracy = np.mean(deployed.predict(images, verbose=0).argmax(axis=1) == labels)
    if args.process == 0:
        print(f"ran on        {ran_on}; batches of {args.batch_size}")
        print(f"trained       {epochs} epochs of {args.data} in {seconds:.1f} s")
        print(f"accuracy      {accuracy:.4f}")
        print(f"penalty       {history['graph_variation'][-1]:.6f}")
        print(f"weights       {np.sqrt(sum(np.sum(np.square(w)) for w in weights)):.4f}")


if __name__ == "__main__":
    main()
