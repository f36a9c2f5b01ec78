"""Which weight does the smoothness penalty need, and which of its two forms is easier to tune?

`SmoothnessVariation` comes in the published form (``relative=False``), whose value grows with the
batch size n, and in a scale-free form (``relative=True``). On scikit-learn's digits this script
trains one small network with each form, at powers 1 to 3, batch sizes 25 to 200 and a log grid of
weights, and compares every run with plain training at the same batch size, seed and epochs. It
prints how wide the range of useful weights is, whether one weight serves every batch size and what
is gained, and draws the curves. All weights are chosen on a validation split; the test split is
used once, with new seeds, for the weights so chosen.

    python examples/weight_sensitivity.py --quick     # under a minute: does it run?
    python examples/weight_sensitivity.py --figure weights.png --record weights.md

The full study takes about 30 minutes on 2 CPU cores (``--jobs 2``, the default).
"""

import concurrent.futures
import multiprocessing
import os
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_lgg as lgg

BLOCKS = ["block1", "block2", "block3"]
WIDTH = 32
LEARNING_RATE = 0.02
NOISES = (0.2, 0.3)  # standard deviations; the first one decides, the second one checks
NOISE_DRAWS = 10  # noisy copies of each image: the same ones for every run
CLEAN_LOSS = 0.02  # a useful weight costs at most this much clean accuracy
TEST_SEED = 100  # the first seed of the runs on the test split
FORMS = {False: "published", True: "relative"}
CLEAN, NOISY = 0, 1  # the columns of a result, followed by the stronger noise


@dataclass(frozen=True)
class Grid:
    """What is trained: every form at every power, batch size, weight and seed."""

    seeds: int
    epochs: int
    batch_sizes: tuple
    weights: dict  # (relative, power) -> increasing weights

    @property
    def curves(self):
        return list(self.weights)


def half_decades(low, high):
    """Weights from 10**low to 10**high, two a decade."""
    return tuple(float(w) for w in 10.0 ** np.arange(low, high + 0.25, 0.5))


FULL = {
    (False, 1): half_decades(-5, 0),
    (False, 2): half_decades(-7, -1),
    (False, 3): half_decades(-8.5, -2),
    (True, 1): half_decades(-1, 3.5),
    (True, 2): half_decades(-1, 3.5),
    (True, 3): half_decades(-1, 3.5),
}
QUICK = {(False, 2): (1e-6, 1e-5, 1e-3), (True, 2): (1.0, 10.0, 1000.0)}


# Data and training.


def load_splits():
    """Digits in [0, 1]: 1000 to train, 297 to choose weights, 500 for the final figures."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32")
    train_x, x, train_y, y = train_test_split(x, y, train_size=1000, stratify=y, random_state=0)
    val_x, test_x, val_y, test_y = train_test_split(
        x, y, train_size=297, stratify=y, random_state=0
    )
    return {"train": (train_x, train_y), "validation": (val_x, val_y), "test": (test_x, test_y)}


def evaluation_sets(x, y):
    """The clean split, then one noisy set of `NOISE_DRAWS` copies for each noise level."""
    copies, labels = np.tile(x, (NOISE_DRAWS, 1)), np.tile(y, NOISE_DRAWS)
    noise = np.random.default_rng(0).standard_normal(copies.shape)
    noisy = [np.clip(copies + s * noise, 0.0, 1.0).astype("float32") for s in NOISES]
    return [(x, y), *((copy, labels) for copy in noisy)]


def build_network():
    """Three Dense-BatchNorm-ReLU blocks, tapped after their ReLU as in the published runs."""
    network = keras.Sequential([keras.Input((64,))])
    for name in BLOCKS:
        network.add(layers.Dense(WIDTH, use_bias=False))
        network.add(layers.BatchNormalization())
        network.add(layers.ReLU(name=name))
    network.add(layers.Dense(10))
    return network


class Trainer:
    """Trains the network again and again in one compiled model: tracing costs more than a run."""

    def __init__(self, relative=False, power=1):
        self.base = build_network()
        # num_classes lets the penalty take its linear form, with no (n, n) matrix.
        loss = lgg.losses.SmoothnessVariation(power=power, num_classes=10, relative=relative)
        self.penalty = lgg.Penalty(loss, BLOCKS, weight=0.0)
        self.model = lgg.GeometryModel(self.base, [self.penalty])
        self.optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
        self.model.compile(
            self.optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=10,
            jit_compile=False,
        )
        self.optimizer.build(self.base.trainable_variables)
        self.optimizer_start = [keras.ops.convert_to_numpy(v) for v in self.optimizer.variables]

    def train(self, data, *, weight, batch_size, seed, epochs):
        """The network after ``epochs`` from the seed's own start, in the seed's own order."""
        keras.utils.set_random_seed(seed)
        self.base.set_weights(build_network().get_weights())
        for variable, start in zip(self.optimizer.variables, self.optimizer_start, strict=True):
            variable.assign(start)
        self.penalty.weight.assign(weight)
        # One long epoch in an order of our own: it depends on the seed and on nothing else.
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(len(data[0])) for _ in range(epochs)])
        x, y = data[0][order], data[1][order]
        self.model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)
        return self.base


def accuracies(network, sets):
    return [float(np.mean(network.predict_on_batch(x).argmax(1) == y)) for x, y in sets]


def penalty_value(network, data, *, relative, power, batch_size):
    """Mean value of the penalty on the training batches of a trained network."""
    taps = keras.Model(network.inputs, [network.get_layer(name).output for name in BLOCKS])
    features = taps.predict_on_batch(data[0])
    values = [
        lgg.losses.smoothness_variation(
            [f[i : i + batch_size] for f in features],
            data[1][i : i + batch_size],
            power=power,
            num_classes=10,
            relative=relative,
        )
        for i in range(0, len(data[0]), batch_size)
    ]
    return float(np.mean([float(v) for v in values]))


# The study. A result is an array of accuracies, (seeds, [clean, noisy, noisier]).


def run_curve(job):
    """One curve: all weights and seeds of one form, power and batch size."""
    grid, relative, power, batch_size, weights, split, first_seed = job
    splits = load_splits()
    sets = evaluation_sets(*splits[split])
    trainer = Trainer(relative, power)
    found = {}
    for weight in weights:
        found[weight] = np.array(
            [
                accuracies(
                    trainer.train(
                        splits["train"],
                        weight=weight,
                        batch_size=batch_size,
                        seed=first_seed + seed,
                        epochs=grid.epochs,
                    ),
                    sets,
                )
                for seed in range(grid.seeds)
            ]
        )
        name = f"{FORMS[relative]}, p = {power}" if weight else "plain"
        clean, noisy = found[weight].mean(0)[:2]
        print(
            f"{split}: {name}, n = {batch_size}, weight {weight:.1e}: "
            f"clean {clean:.3f}, noisy {noisy:.3f}",
            flush=True,
        )
    return found


def use_one_thread():
    """Many small processes: more threads in each would only wait for each other."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


def run_jobs(jobs, processes):
    if processes == 1:
        return [run_curve(job) for job in jobs]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=context, initializer=use_one_thread
    ) as pool:
        return list(pool.map(run_curve, jobs))


def run_study(grid, processes):
    """``{(relative, power, n): {weight: result}}`` on validation; plain training has weight 0."""
    keys = [(*curve, n) for n in grid.batch_sizes for curve in grid.curves]
    jobs = [(grid, False, 1, n, (0.0,), "validation", 0) for n in grid.batch_sizes]
    jobs += [(grid, *key, grid.weights[key[:2]], "validation", 0) for key in keys]
    found = run_jobs(jobs, processes)
    plain = dict(zip(grid.batch_sizes, found, strict=False))
    curves = found[len(grid.batch_sizes) :]
    return {key: plain[key[-1]] | curve for key, curve in zip(keys, curves, strict=True)}
