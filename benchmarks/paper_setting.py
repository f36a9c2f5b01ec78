"""The paper's own setting on one GPU: CIFAR-10, PreActResNet18 of full width, plain and smooth.

KERAS_BACKEND=jax python -m benchmarks.paper_setting cifar10-jpeg.npz --minutes 6

As many epochs as fit into the time, half of it for each variant, in bfloat16: batches of 100, SGD
with momentum whose rate falls as a cosine, crops and flips. Needs pillow to read the images, and no
TensorFlow. Prints the accuracies, and with --record puts them into a Markdown page.
"""

import argparse
import io
import itertools
import pathlib
import shlex
import sys
import time

import keras
import numpy as np

import keras_lgg as lgg
from benchmarks.__main__ import machine, table, write
from examples import networks
from keras_lgg import robustness

BATCH = 100
WEIGHT = 1e-4  # the authors' at n = 100, of smoothness variation with power 2
SNR = (20, 17, 14, 11, 8)  # in dB
VARIANTS = {"plain": 0.0, "smooth geometry": WEIGHT}


def images(pack, split):
    """Images ``(n, 32, 32, 3)`` in bytes, and labels, from files in one array."""
    from PIL import Image

    stored = pack[f"{split}_bytes"].tobytes()
    bounds = [0, *(int(end) for end in pack[f"{split}_ends"])]
    pixels = [
        np.asarray(Image.open(io.BytesIO(stored[a:b])).convert("RGB"))
        for a, b in itertools.pairwise(bounds)
    ]
    return np.stack(pixels), pack[f"{split}_labels"].astype("int32")


def scaled(pixels):
    """Pixels in [0, 1], float32, of those in bytes."""
    return pixels / np.float32(255)


def augmented(pixels, rng):
    """Each image, flipped or not, from a random place of itself in a border of 4 zeros."""
    n, size = pixels.shape[:2]
    bordered = np.pad(pixels, [(0, 0), (4, 4), (4, 4), (0, 0)])
    rows, columns = rng.integers(0, 9, (2, n, 1)) + np.arange(size)
    columns = np.where(rng.random((n, 1)) < 0.5, columns, columns[:, ::-1])
    return bordered[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def model_of(pixels, weight, width):
    """The network as it is trained, and by itself; pixels in [0, 1] go in."""
    network = networks.preact_resnet18(pixels.shape[1:], 10, width=width)
    normalized = keras.layers.Normalization()
    normalized.adapt(scaled(pixels[:10_000]))
    inputs = keras.Input(pixels.shape[1:])
    base = keras.Model(inputs, network(normalized(inputs)))
    if not weight:
        return base, base
    loss = lgg.losses.SmoothnessVariation(power=2, num_classes=10)
    taps = [f"preact_resnet18/{tap}" for tap in networks.BLOCK_RELUS]
    return lgg.GeometryModel(base, [lgg.Penalty(loss, taps, weight=weight)]), base


def train(data, weight, seconds, *, seed, width):
    """The trained network, and how many epochs the seconds were enough for."""
    pixels, labels = data
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    model, base = model_of(pixels, weight, width)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def compiled(rate):
        model.compile(keras.optimizers.SGD(rate, momentum=0.9, weight_decay=5e-4), loss)

    def epoch():
        begin = time.monotonic()
        order = rng.permutation(len(labels) // BATCH * BATCH)
        x = scaled(augmented(pixels[order], rng))
        model.fit(x, labels[order], batch_size=BATCH, shuffle=False, verbose=0)
        return time.monotonic() - begin

    start = time.monotonic()
    compiled(0.0)  # two epochs that change nothing, to know how long the others take
    first, second = epoch(), epoch()
    epochs = max(1, int((seconds - (time.monotonic() - start)) / (second + 1e-3)))
    # What compiles takes its time again, as the first epoch did.
    epochs = max(1, epochs - round((first - second) / (second + 1e-3)))
    steps = epochs * (len(labels) // BATCH)
    compiled(keras.optimizers.schedules.CosineDecay(0.1, steps))
    for _ in range(epochs):
        epoch()
    return base, epochs


def rows(train_data, test_data, seconds, *, seed, width):
    """Rows: variant, epochs, accuracy in %, clean and under Gaussian noise."""
    held_out = scaled(test_data[0]), test_data[1]
    for variant, weight in VARIANTS.items():
        network, epochs = train(train_data, weight, seconds / len(VARIANTS), seed=seed, width=width)
        row = {"variant": variant, "epochs": epochs, "clean": _accuracy(network, *held_out)}
        noise = robustness.GaussianNoise(snr=SNR)
        for snr, noisy in zip(SNR, noise.data(*held_out, seed=seed), strict=True):
            row[f"{snr} dB"] = _accuracy(network, *noisy)
        yield row


def _accuracy(network, pixels, labels):
    found = network.predict(pixels, batch_size=500, verbose=0).argmax(axis=1)
    return f"{100 * np.mean(found == labels):.1f}"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=pathlib.Path, help="cifar10-jpeg.npz")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--record", type=pathlib.Path, metavar="PATH")
    args = parser.parse_args(argv)
    keras.config.set_dtype_policy("mixed_bfloat16")
    pack = np.load(args.data)
    data = images(pack, "train"), images(pack, "test")
    found = table(rows(*data, 60 * args.minutes, seed=args.seed, width=args.width))
    if args.record:
        command = shlex.join(sys.argv[1:] if argv is None else [str(a) for a in argv])
        text = (
            "## Robustness: the paper's setting",
            f"    python -m benchmarks.paper_setting {command}",
            f"Seed {args.seed}, bfloat16. {machine()}",
            "**Accuracy in %**",
            found,
        )
        write("paper_setting", "\n\n".join(text), args.record)


if __name__ == "__main__":
    main()
