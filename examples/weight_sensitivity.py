"""Which weight does the smoothness penalty need, and which of its two forms is easier to tune?

`SmoothnessVariation` has the published form (``relative=False``), whose value grows with the batch
size n, and a scale-free one (``relative=True``). On scikit-learn's digits this script trains a
small network with each form, at powers 1 to 3, batch sizes 25 to 200 and a log grid of weights,
and compares each run with plain training at the same batch size, seed and number of epochs. It
prints how wide the range of useful weights is, whether one weight serves every batch size, and
what is gained. Weights are chosen on a validation split; the test split is used once, with new
seeds, for the chosen weights.

    python examples/weight_sensitivity.py --quick     # under a minute: does it run?
    python examples/weight_sensitivity.py --jobs 2 --figure weights.png --record weights.md

The full study takes about half an hour on 2 CPU cores; ``--jobs`` is the number of processes.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import platform
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import asked_for_help  # noqa: F401 (it acts when it is imported, before the others)
import keras
import numpy as np
import sklearn
from keras import layers
from progress import Progress
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_lgg as lgg
from keras_lgg.files import beside

BLOCKS = ["block1", "block2", "block3"]
NOISES = (0.2, 0.3)  # standard deviations of the noise on pixels in [0, 1]
NOISE_DRAWS = 10  # noisy copies of each image, the same ones for every run
TEST_SEED = 100  # the first seed of the runs on the test split
POWER = 2  # of the published runs: the one that is drawn, tested and tried on other networks
POINT = 0.01  # one point of accuracy
CLEAN_LOSS = 2 * POINT  # what a useful weight may cost in clean accuracy
CLEAN, NOISY, NOISIER, VALUE = range(4)  # the columns of every result
FORMS = {False: "published", True: "relative"}
COLOURS = ["#E69F00", "#56B4E9", "#009E73", "#D55E00"]  # of Okabe and Ito


@dataclass(frozen=True)
class Setup:
    """A network and its optimizer."""

    name: str
    width: int = 32
    batchnorm: bool = True
    adam: bool = False


BASE = Setup("base")
OTHERS = (
    Setup("4 times as wide", width=128),
    Setup("no BatchNorm", batchnorm=False),
    Setup("Adam", adam=True),
)


@dataclass(frozen=True)
class Study:
    """What is trained; the other networks at `POWER` and ``other_size`` only."""

    seeds: int
    epochs: int
    sizes: tuple
    other_size: int
    others: tuple
    weights: dict  # (relative, power) -> increasing weights

    @property
    def powers(self):
        return sorted({power for _, power in self.weights})

    @property
    def keys(self):
        """(setup, relative, power, batch size) of every curve, the slowest ones first."""
        base = [(BASE, *form, n) for n in self.sizes for form in self.weights]
        forms = [form for form in self.weights if form[1] == POWER]
        return base + [(s, *form, self.other_size) for s in self.others for form in forms]


def half_decades(low, high):
    return tuple(float(w) for w in 10.0 ** np.arange(low, high + 0.25, 0.5))


FULL = Study(
    seeds=5,
    epochs=60,
    sizes=(25, 50, 100, 200),
    other_size=100,
    others=OTHERS,
    weights={
        (False, 1): half_decades(-4.5, 0),
        (False, 2): half_decades(-6.5, -1.5),
        (False, 3): half_decades(-8, -2),
        (True, 1): half_decades(-0.5, 3),
        (True, 2): half_decades(-0.5, 3),
        (True, 3): half_decades(-0.5, 3),
    },
)
QUICK = Study(
    seeds=1,
    epochs=10,
    sizes=(50, 200),
    other_size=200,
    others=OTHERS[:1],
    weights={
        (False, 2): (1e-5, 1e-4, 1e-2),
        (True, 2): (1.0, 30.0, 1000.0),
    },
)


# Data and training.


@functools.cache
def load_splits():
    """Digits in [0, 1]: 1000 to train, 297 to choose weights, 500 for the final figures."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32")
    train_x, x, train_y, y = train_test_split(x, y, train_size=1000, stratify=y, random_state=0)
    val_x, test_x, val_y, test_y = train_test_split(
        x, y, train_size=297, stratify=y, random_state=0
    )
    return {"train": (train_x, train_y), "validation": (val_x, val_y), "test": (test_x, test_y)}


@functools.cache
def evaluation_sets(split):
    """The clean split, then `NOISE_DRAWS` noisy copies of it for each noise level."""
    x, y = load_splits()[split]
    copies, labels = np.tile(x, (NOISE_DRAWS, 1)), np.tile(y, NOISE_DRAWS)
    noise = np.random.default_rng(0).standard_normal(copies.shape)
    noisy = [np.clip(copies + s * noise, 0.0, 1.0).astype("float32") for s in NOISES]
    return [(x, y), *((copy, labels) for copy in noisy)]


def build_network(setup):
    """Three blocks, tapped after their ReLU as in the published runs."""
    network = keras.Sequential([keras.Input((64,))])
    for name in BLOCKS:
        network.add(layers.Dense(setup.width, use_bias=not setup.batchnorm))
        if setup.batchnorm:
            network.add(layers.BatchNormalization())
        network.add(layers.ReLU(name=name))
    network.add(layers.Dense(10))
    return network


class Trainer:
    """Trains a network again and again in one compiled model: tracing costs more than a run."""

    def __init__(self, setup, relative, power):
        self.setup = setup
        self.base = build_network(setup)
        # num_classes lets the penalty take its linear form, with no (n, n) matrix.
        loss = lgg.losses.SmoothnessVariation(power=power, num_classes=10, relative=relative)
        self.penalty = lgg.Penalty(loss, BLOCKS, weight=0.0)
        self.model = lgg.GeometryModel(self.base, [self.penalty])
        self.optimizer = (
            keras.optimizers.Adam(1e-3) if setup.adam else keras.optimizers.SGD(0.02, momentum=0.9)
        )
        self.model.compile(
            self.optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=1 if keras.backend.backend() == "torch" else 10,
            jit_compile=False,
        )
        self.optimizer.build(self.base.trainable_variables)
        self.start = [keras.ops.convert_to_numpy(v) for v in self.optimizer.variables]

    def train(self, *, weight, batch_size, seed, epochs):
        """The trained network, and the mean value of the unweighted penalty while it trained."""
        keras.utils.set_random_seed(seed)
        self.base.set_weights(build_network(self.setup).get_weights())
        for variable, start in zip(self.optimizer.variables, self.start, strict=True):
            variable.assign(start)
        self.penalty.weight.assign(weight)
        x, y = load_splits()["train"]
        # One long epoch in an order of our own: with the start it depends on the seed alone.
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)])
        history = self.model.fit(
            x[order], y[order], batch_size=batch_size, shuffle=False, verbose=0
        )
        return self.base, history.history[self.penalty.name][-1]


@dataclass(frozen=True)
class Job:
    """All seeds of some weights of one form, power and batch size."""

    key: tuple  # (setup, relative, power, batch size)
    weights: tuple  # 0 is plain training
    split: str
    seeds: range
    epochs: int


def run_job(progress, job):
    """Array (seeds, weights, columns): accuracies on the split, and the penalty's value."""
    setup, relative, power, n = job.key
    # One model for each job: one that was traced for another n rounds differently.
    trainer = Trainer(setup, relative, power)
    results = []
    for weight in job.weights:
        progress.say(
            f"{job.split}, {setup.name}, n = {n}, {FORMS[relative]}, p = {power}, {weight:.1e}"
        )
        rows = []
        for seed in job.seeds:
            network, value = trainer.train(
                weight=weight, batch_size=n, seed=seed, epochs=job.epochs
            )
            rows.append([accuracy(network, *xy) for xy in evaluation_sets(job.split)] + [value])
        results.append(rows)
    return np.array(results).swapaxes(0, 1)


def accuracy(network, x, y):
    logits = keras.ops.convert_to_numpy(network(x, training=False))
    return float(np.mean(logits.argmax(axis=1) == y))


def run_jobs(jobs, processes):
    progress = Progress()
    run = functools.partial(run_job, progress)
    if processes == 1:
        found = [run(job) for job in jobs]
        progress.clear()
        return found
    progress.is_log = True  # processes cannot share a line
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=context, initializer=use_one_thread
    ) as pool:
        return list(pool.map(run, jobs))


def use_one_thread():
    # The processes share the cores: more threads in each would only wait for each other.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


# From runs to curves.


@dataclass(frozen=True)
class Curve:
    """Accuracies of one form, power and batch size, against the logarithm of the weight."""

    n: int
    power: int
    logs: np.ndarray  # log10 of the weights, increasing
    plain: np.ndarray  # (seeds, columns)
    change: np.ndarray  # (seeds, weights, columns), against plain training with the same seed

    @functools.cached_property
    def fine(self):
        return np.linspace(self.logs[0], self.logs[-1], round(100 * np.ptp(self.logs)) + 1)

    def at(self, log_weight, column):
        """Mean change at any weight, by interpolation."""
        return np.interp(log_weight, self.logs, self.change.mean(axis=0)[:, column])

    def is_safe(self, log_weight):
        return self.at(log_weight, CLEAN) >= -CLEAN_LOSS

    @property
    def safe_limit(self):
        """The (log of the) largest weight up to which clean accuracy stays within its bound."""
        unsafe = np.flatnonzero(~self.is_safe(self.fine))
        return self.fine[max(unsafe[0] - 1, 0)] if len(unsafe) else self.fine[-1]

    def best(self, column):
        """Index of the weight that gains most, of those that cost little clean accuracy."""
        gains = self.change.mean(axis=0)[:, column]
        return int(np.argmax(np.where(self.is_safe(self.logs), gains, -np.inf)))

    def useful(self, column):
        """Ends of the useful range (logs), or None where no weight gains clearly.

        Useful: at least half of the best gain, and clean accuracy within its bound. A clear gain
        is at least one point and two standard errors over the seeds.
        """
        best = self.best(column)
        gains = self.change[:, best, column]
        error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
        if not self.is_safe(self.logs[best]) or gains.mean() < max(POINT, 2 * error):
            return None
        inside = self.is_safe(self.fine) & (self.at(self.fine, column) >= gains.mean() / 2)
        here = int(np.argmin(abs(self.fine - self.logs[best])))
        outside = np.flatnonzero(~inside)
        low = max(outside[outside < here], default=-1) + 1
        high = min(outside[outside > here], default=len(inside)) - 1
        return self.fine[low], self.fine[high]


def run_curves(study, processes):
    """``{(setup, relative, power, n): Curve}`` on the validation split."""
    jobs = [
        Job(key, (0.0, *study.weights[key[1:3]]), "validation", range(study.seeds), study.epochs)
        for key in study.keys
    ]
    curves = {}
    for job, found in zip(jobs, run_jobs(jobs, processes), strict=True):
        plain, penalised = found[:, :1], found[:, 1:]
        _, _, power, n = job.key
        logs = np.log10(job.weights[1:])
        curves[job.key] = Curve(n, power, logs, plain[:, 0], penalised - plain)
    return curves


# One constant for all batch sizes, or for all networks.


@dataclass(frozen=True)
class Rule:
    """How a constant c gives the weight at each batch size."""

    name: str
    relative: bool
    divisor: str = "1"

    def shift(self, curve):
        """log10 of weight / c."""
        if self.divisor == "n^(p+1)":
            return -(curve.power + 1) * np.log10(curve.n)
        if self.divisor == "value":
            return -np.log10(curve.plain[:, VALUE].mean())
        return 0.0


FIXED = Rule("published, c", relative=False)
SCALED = Rule("published, c / n^(p+1)", relative=False, divisor="n^(p+1)")
LOGGED = Rule("published, c / value", relative=False, divisor="value")
RELATIVE = Rule("relative, c", relative=True)
RULES = (FIXED, SCALED, LOGGED, RELATIVE)


def by_size(curves, rule, power):
    return [
        c for (s, *form, _), c in curves.items() if s == BASE and form == [rule.relative, power]
    ]


def by_network(curves, rule, n):
    return [c for (_, *form, m), c in curves.items() if m == n and form == [rule.relative, POWER]]


def shared_constant(rule, members):
    """The constant of the best mean gain that is safe on every curve, to one digit."""
    low = min(c.logs[0] - rule.shift(c) for c in members)
    high = max(c.logs[-1] - rule.shift(c) for c in members)
    constants = [float(f"{10.0**log:.0e}") for log in np.arange(low, high, 0.02)]

    def score(constant):
        logs = [np.log10(constant) + rule.shift(c) for c in members]
        if not all(c.is_safe(log) for c, log in zip(members, logs, strict=True)):
            return -np.inf
        return np.mean([c.at(log, NOISY) for c, log in zip(members, logs, strict=True)])

    return max(constants, key=score)


def overlap(rule, members, column):
    """Decades of the constant that are useful on every curve with a clear gain.

    A negative number is the gap between ranges that do not meet; None: fewer than two ranges.
    """
    useful = [(c, c.useful(column)) for c in members]
    ranges = [np.array(ends) - rule.shift(c) for c, ends in useful if ends is not None]
    if len(ranges) < 2:
        return None
    low, high = zip(*ranges, strict=True)
    return min(high) - max(low)


def exponent(members):
    """x in "the largest safe weight goes like n**x"."""
    return np.polyfit(np.log10([c.n for c in members]), [c.safe_limit for c in members], 1)[0]


def run_tests(study, curves, processes):
    """``{(rule or "plain", n): (weight, array (seeds, columns))}`` on the test split."""
    chosen = {}  # (relative, n) -> {rule or "plain": weight}
    for n in study.sizes:
        chosen[False, n], chosen[True, n] = {"plain": 0.0}, {}
        for rule in RULES:
            log = np.log10(shared_constant(rule, by_size(curves, rule, POWER)))
            log += rule.shift(curves[BASE, rule.relative, POWER, n])
            chosen[rule.relative, n][rule.name] = float(10**log)
    seeds = range(TEST_SEED, TEST_SEED + study.seeds)
    jobs = [
        Job((BASE, relative, POWER, n), tuple(weights.values()), "test", seeds, study.epochs)
        for (relative, n), weights in chosen.items()
    ]
    tests = {}
    for job, weights, runs in zip(jobs, chosen.values(), run_jobs(jobs, processes), strict=True):
        for i, (name, weight) in enumerate(weights.items()):
            tests[name, job.key[-1]] = weight, runs[:, i]
    return tests


# The report, in Markdown: accuracies in %, their changes in points.


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def percent(values):
    return f"{100 * values.mean():.1f} ± {100 * values.std():.1f}"


def points(values):
    return f"{100 * values.mean():+.1f} ± {100 * values.std():.1f}"


def decades(width):
    return "–" if width is None else f"{width:.1f}"


def curve_cells(curve, column):
    """The best weight and what it changes, the useful range, and the largest safe weight."""
    best, ends = curve.best(column), curve.useful(column)
    return [
        f"{10 ** curve.logs[best]:.0e}",
        points(curve.change[:, best, column]),
        points(curve.change[:, best, CLEAN]),
        f"{10 ** ends[0]:.1e} to {10 ** ends[1]:.1e}" if ends else "no clear gain",
        decades(ends and ends[1] - ends[0]),
        f"{10**curve.safe_limit:.1e}",
    ]


CURVE_HEADER = ["best weight", "noisy", "clean", "useful weights", "decades", "safe up to"]


def plain_table(study, curves):
    plain = {n: curves[BASE, False, POWER, n].plain for n in study.sizes}
    header = ["n", "clean", *(f"noise {s}" for s in NOISES)]
    columns = (CLEAN, NOISY, NOISIER)
    return table(header, [[n, *(percent(p[:, c]) for c in columns)] for n, p in plain.items()])


def range_table(curves, column):
    rows = [
        [p, FORMS[relative], n, *curve_cells(curve, column)]
        for (setup, relative, p, n), curve in curves.items()
        if setup == BASE
    ]
    rows.sort(key=lambda row: row[:3])
    return table(["p", "form", "n", *CURVE_HEADER], rows)


def rule_cells(rule, members):
    constant = shared_constant(rule, members)
    gains = [c.at(np.log10(constant) + rule.shift(c), NOISY) for c in members]
    overlaps = [decades(overlap(rule, members, column)) for column in (NOISY, NOISIER)]
    return [*overlaps, f"{constant:g}", *(f"{100 * gain:+.1f}" for gain in gains)]


def rule_header(labels):
    return ["weight", *(f"decades, noise {s}" for s in NOISES), "best c", *labels]


def size_rule_table(study, curves):
    rows = []
    for power in study.powers:
        for rule in RULES:
            members = by_size(curves, rule, power)
            # The divisors are there to flatten this very exponent.
            slope = f"n^{exponent(members):.1f}" if rule.divisor == "1" else ""
            rows.append([power, rule.name, slope, *rule_cells(rule, members)])
    header = rule_header(f"n = {n}" for n in study.sizes)
    return table(["p", header[0], "safe limit", *header[1:]], rows)


def network_tables(study, curves):
    keys = [key for key in curves if key[2:] == (POWER, study.other_size)]
    keys.sort(key=lambda key: key[1])
    tables = []
    for noise, column in zip(NOISES, (NOISY, NOISIER), strict=True):
        rows = [
            [
                FORMS[key[1]],
                key[0].name,
                percent(curves[key].plain[:, column]),
                *curve_cells(curves[key], column),
            ]
            for key in keys
        ]
        tables.append(table(["form", f"noise {noise}", "plain noisy", *CURVE_HEADER], rows))
    rows = [
        [rule.name, *rule_cells(rule, by_network(curves, rule, study.other_size))]
        for rule in RULES
        if rule != SCALED  # there is one n only
    ]
    tables.append(table(rule_header(s.name for s in (BASE, *study.others)), rows))
    return "\n\n".join(tables)


def grid_table(study, curves, relative):
    """Every weight at `POWER`: changes of noisy and clean accuracy."""
    rows = [
        [f"{weight:.1e}"]
        + [
            f"{points(curves[BASE, relative, POWER, n].change[:, i, NOISY])} "
            f"({100 * curves[BASE, relative, POWER, n].change[:, i, CLEAN].mean():+.1f})"
            for n in study.sizes
        ]
        for i, weight in enumerate(study.weights[relative, POWER])
    ]
    return table([FORMS[relative], *(f"n = {n}" for n in study.sizes)], rows)


def default_table(study, curves):
    """What the default weight of a Penalty, 1, does."""
    forms = [form for form, weights in study.weights.items() if 1.0 in weights]
    rows = []
    for form in forms:
        at_one = [
            curves[BASE, *form, n].change[:, study.weights[form].index(1.0)] for n in study.sizes
        ]
        cells = [f"{points(c[:, NOISY])} ({100 * c[:, CLEAN].mean():+.1f})" for c in at_one]
        rows.append([FORMS[form[0]], form[1], *cells])
    return table(["form", "p", *(f"n = {n}" for n in study.sizes)], rows)


def test_table(tests):
    rows = []
    for (name, n), (weight, result) in tests.items():
        plain = tests["plain", n][1]
        gain = "" if name == "plain" else points((result - plain)[:, NOISY])
        cells = [percent(result[:, column]) for column in (CLEAN, NOISY, NOISIER)]
        rows.append([n, name, f"{weight:.1e}" if weight else "", *cells, gain])
    noises = [f"noise {s}" for s in NOISES]
    return table(["n", "training", "weight", "clean", *noises, f"gain, {noises[0]}"], rows)


def verdict(tests):
    """What each rule for the weight gains under noise, by batch size."""
    gains = {}
    for (name, n), (_, result) in tests.items():
        if name != "plain":
            gain = points((result - tests["plain", n][1])[:, NOISY])
            gains.setdefault(name, []).append(f"{gain} (n = {n})")
    lines = [f"* {name}: {', '.join(found)}." for name, found in gains.items()]
    split = f"Under noise {NOISES[0]}, in points against plain training on the test split:"
    return "\n".join([split, "", *lines])


def report(study, curves, tests):
    first, second = NOISES
    sections = {
        "Plain training": plain_table(study, curves),
        f"Useful weights, noise {first}": range_table(curves, NOISY),
        f"Useful weights, noise {second}": range_table(curves, NOISIER),
        "One constant for every batch size": size_rule_table(study, curves),
        f"Other networks, p = {POWER}, n = {study.other_size}": network_tables(study, curves),
        "A weight of 1": default_table(study, curves),
        f"All weights, p = {POWER}": "\n\n".join(grid_table(study, curves, f) for f in FORMS),
        f"Test split, p = {POWER}": test_table(tests),
    }
    notes = f"""\
Accuracies in %, changes in points against plain training with the same seed and n, mean ± std over
{study.seeds} seeds. "Noisy" is noise {first}, unless the title says {second}. In brackets: the
change of clean accuracy.

* *Useful weights*: at least half of the best noisy gain, and at most {CLEAN_LOSS / POINT:g} points
  of clean accuracy lost. Between grid points the mean curve is interpolated. A *clear gain* is at
  least {100 * POINT:g} point and two standard errors.
* *Safe up to*: no smaller weight loses more clean accuracy than that. *Safe limit*: the power of n
  that this weight follows.
* *Decades* of a constant c: what the useful ranges have in common (negative: the gap between ranges
  that do not meet), curves without a clear gain left out. *Best c* has the best mean gain of those
  that are safe everywhere; its gains follow. *Value*: the mean of the unweighted penalty that plain
  training logs."""
    body = "\n\n".join(f"### {title}\n\n{text}" for title, text in sections.items())
    return f"{notes}\n\n{body}\n\n{verdict(tests)}"


def draw(study, curves, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    spans = [np.ptp(np.log10(study.weights[form, POWER])) for form in FORMS]
    figure, axes = pyplot.subplots(
        3, 2, figsize=(9, 9), sharex="col", sharey="row", width_ratios=spans
    )  # a decade is as wide in both columns
    titles = [*(f"noisy (σ = {s}), change in points" for s in NOISES), "clean, change in points"]
    for row, column in zip(axes, (NOISY, NOISIER, CLEAN), strict=True):
        for relative, axis in zip(FORMS, row, strict=True):
            for n, colour, marker in zip(study.sizes, COLOURS, "osD^", strict=False):
                curve = curves[BASE, relative, POWER, n]
                change = 100 * curve.change[:, :, column]
                mean, std = change.mean(axis=0), change.std(axis=0)
                weights = 10**curve.logs
                axis.fill_between(weights, mean - std, mean + std, color=colour, alpha=0.2, lw=0)
                axis.plot(weights, mean, color=colour, marker=marker, ms=4, label=f"n = {n}")
            axis.axhline(0, color="black", lw=0.8)
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(title)
    for relative, axis in zip(FORMS, axes[0], strict=True):
        axis.set_title(f"{FORMS[relative]} form, p = {POWER}")
    for axis in axes[-1]:
        axis.axhline(-100 * CLEAN_LOSS, color="black", lw=0.8, ls="--")
        axis.set_xlabel("weight")
    # Below these bounds training has collapsed, and how far is of no interest.
    axes[0, 0].set_ylim(-8, 6)
    axes[1, 0].set_ylim(-8, 10)
    axes[2, 0].set_ylim(-10, 2)
    axes[0, 0].legend(loc="lower left")
    figure.suptitle(
        "Digits: what the weight of the smoothness penalty does, against plain training"
    )
    figure.tight_layout()
    with beside(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
    pyplot.close(figure)


MARKER = "<!-- Below: recorded by examples/weight_sensitivity.py. Above: written by hand. -->"


def record(path, text, figure, seconds, arguments):
    """Write the page; what stands above the marker in an existing page is kept."""
    path = Path(path)
    above = path.read_text().partition(MARKER)[0] if path.exists() else ""
    versions = f"Python {platform.python_version()}, Keras {keras.version()}"
    versions += f", {keras.backend.backend()} backend, scikit-learn {sklearn.__version__}"
    facts = f"""\
{MARKER}

## The recorded run

    python examples/weight_sensitivity.py {" ".join(arguments)}

scikit-learn's digits, split 1000 / 297 / 500 (train, validation, test). {versions}. Wall time
{seconds / 60:.0f} minutes."""
    picture = f"![Change of accuracy against the weight]({os.path.relpath(figure, path.parent)})"
    parts = [above + facts, *([picture] if figure else []), text]
    with beside(path) as unfinished:
        unfinished.write_text("\n\n".join(parts) + "\n")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, small grid: a minute")
    parser.add_argument("--seeds", type=int, help="number of seeds, 0 upwards")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--figure", help="where to write the figure")
    parser.add_argument("--record", help="where to write the Markdown page")
    return parser.parse_args(argv)


def main(argv=None):
    """Returns the curves on the validation split, the results on the test split, and the text."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parse(arguments)
    start = time.time()
    study = QUICK if options.quick else FULL
    if options.seeds:
        study = replace(study, seeds=options.seeds)
    curves = run_curves(study, options.jobs)
    tests = run_tests(study, curves, options.jobs)
    text = report(study, curves, tests)
    print(f"\n{text}\n\n{time.time() - start:.0f} s")
    if options.figure:
        draw(study, curves, options.figure)
    if options.record:
        record(options.record, text, options.figure, time.time() - start, arguments)
    return curves, tests, text


if __name__ == "__main__":
    main()
