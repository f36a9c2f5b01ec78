"""Three uses of latent geometry, each beside its baseline, on scikit-learn's 1,797 digits.

* Robustness: a plain network against smooth geometry, on clean digits and under Gaussian noise.
* Distillation: a small student alone, with RKD-D and with GKD, beside its teacher.
* Embeddings: cross-entropy against the graph smoothness loss, by the error of 10-NN.

    python examples/quickstart.py            # 3 seeds, about 2 minutes on 2 cores
    python examples/quickstart.py --quick    # 1 seed, about half a minute
    python examples/quickstart.py --select   # how the loss weights were chosen, about 10 minutes

Nothing is downloaded. It needs the extra ``examples`` (scikit-learn and matplotlib). It prints
one table, of the test split, and draws it into a figure. All variants of a seed start from the
same weights and see the same batches in the same order, for the same number of epochs.
"""

import argparse
import itertools
import time
from typing import NamedTuple

import asked_for_help  # noqa: F401 (it acts when it is imported, before the others)
import keras
import numpy as np
from common import BLACK, BLUE, GREEN, VERMILION, describe, draw_point, figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

import keras_lgg as lgg
from keras_lgg.files import beside

BLOCKS = ["block1", "block2", "block3"]
SIGMAS = [0.0, 0.1, 0.2, 0.3, 0.4]  # of the noise, for pixels in [0, 1]
NOISE_DRAWS = 10
TEACHER_WIDTH, STUDENT_WIDTH, EMBEDDING_WIDTH = 128, 8, 16
EPOCHS = 25
SELECTION_SEEDS = range(100, 105)  # none of those that are reported by default
CROSS_ENTROPY = "sparse_categorical_crossentropy"

# What each task compares: a name, and the weight or the loss that makes the variant. The
# numbers are the best of GRID on the validation split; --select prints that choice.
CHOSEN = {
    "robustness": {"plain": None, "smooth geometry": 1e-5},
    "distillation": {
        "student alone": None,
        "RKD-D": (lgg.losses.RelationalDistance(), 25.0),
        "GKD": (lgg.losses.GraphDistillation(), 1.0),
    },
    "embeddings": {
        "cross-entropy": None,
        "graph smoothness": 0.5,
    },
}
GRID = {
    "robustness": {"plain": None}
    | {f"smooth geometry, weight {w:g}": w for w in (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4)},
    "distillation": {"student alone": None}
    | {f"RKD-D, weight {w:g}": (lgg.losses.RelationalDistance(), w) for w in (1, 2.5, 5, 10, 25)}
    | {f"GKD, weight {w:g}": (lgg.losses.GraphDistillation(), w) for w in (1, 2.5, 5, 10, 25)},
    "embeddings": {"cross-entropy": None}
    | {f"graph smoothness, alpha {a:g}": a for a in (0.25, 0.5, 1, 2, 4)},
}


class Data(NamedTuple):
    x: np.ndarray
    y: np.ndarray


def load_splits():
    """Stratified train, validation and test splits of 1000, 297 and 500 digits."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=500, stratify=y, random_state=0)
    x, x_val, y, y_val = train_test_split(x, y, test_size=297, stratify=y, random_state=0)
    return Data(x, y), Data(x_val, y_val), Data(x_test, y_test)


def blocks(width):
    layers = [keras.Input((64,))]
    for name in BLOCKS:
        layers += [
            keras.layers.Dense(width),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(name=name),
        ]
    return layers


def classifier(width):
    return keras.Sequential([*blocks(width), keras.layers.Dense(10, "softmax")])


def embedder():
    """A network whose embeddings have a bounded scale, which graph smoothness needs."""
    normalize = keras.layers.BatchNormalization(momentum=0.9, scale=False, center=False)
    layers = blocks(TEACHER_WIDTH)
    return keras.Sequential([*layers, keras.layers.Dense(EMBEDDING_WIDTH), normalize])


def fit(model, loss, train, seed):
    # On CPU, XLA takes longer to compile under TensorFlow than these networks take to train.
    jit_compile = keras.backend.backend() == "jax"
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    keras.utils.set_random_seed(seed)  # the same order of batches for every variant
    model.fit(train.x, train.y, batch_size=100, epochs=EPOCHS, verbose=0)


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def accuracy(model, data):
    return 100 * float(np.mean(outputs(model, data.x).argmax(axis=1) == data.y))


def add_noise(data, sigma):
    """The data under `NOISE_DRAWS` draws of Gaussian noise, the same ones in each call."""
    x = np.tile(data.x, (NOISE_DRAWS, 1))
    noise = np.random.default_rng(0).standard_normal(x.shape)
    return Data(np.clip(x + sigma * noise, 0, 1).astype("float32"), np.tile(data.y, NOISE_DRAWS))


def robustness(variants, train, held_out, seed):
    for variant, weight in variants.items():
        keras.utils.set_random_seed(seed)
        model = network = classifier(TEACHER_WIDTH)
        if weight is not None:
            loss = lgg.losses.SmoothnessVariation(power=2, num_classes=10)
            model = lgg.GeometryModel(network, [lgg.Penalty(loss, taps=BLOCKS, weight=weight)])
        fit(model, CROSS_ENTROPY, train, seed)
        yield variant, {noise_name(s): accuracy(network, add_noise(held_out, s)) for s in SIGMAS}


def noise_name(sigma):
    return f"noise {sigma:g}" if sigma else "clean"


def distillation(variants, train, held_out, seed):
    keras.utils.set_random_seed(seed)
    teacher = classifier(TEACHER_WIDTH)
    fit(teacher, CROSS_ENTROPY, train, seed)
    yield "teacher", {"accuracy": accuracy(teacher, held_out)}
    for variant, penalty in variants.items():
        keras.utils.set_random_seed(seed)
        model = student = classifier(STUDENT_WIDTH)
        if penalty is not None:
            loss, weight = penalty
            pairs = [(name, name) for name in BLOCKS]
            model = lgg.Distiller(teacher, student, [lgg.Penalty(loss, taps=pairs, weight=weight)])
        fit(model, CROSS_ENTROPY, train, seed)
        yield variant, {"accuracy": accuracy(student, held_out)}


def embeddings(variants, train, held_out, seed):
    for variant, alpha in variants.items():
        keras.utils.set_random_seed(seed)
        network = embedder()
        if alpha is None:
            head = keras.layers.Dense(10, "softmax")
            fit(keras.Sequential([network, head]), CROSS_ENTROPY, train, seed)
        else:
            # The mean over the batch, in place of the sum, keeps the steps of SGD small.
            loss = lgg.losses.GraphSmoothness(alpha=alpha, reduction="sum_over_batch_size")
            fit(network, loss, train, seed)
        neighbors = KNeighborsClassifier(10).fit(outputs(network, train.x), train.y)
        score = neighbors.score(outputs(network, held_out.x), held_out.y)
        yield variant, {"10-NN error": 100 * (1 - score)}


TASKS = {"robustness": robustness, "distillation": distillation, "embeddings": embeddings}


def run(variants, train, held_out, seeds):
    """Train every variant for every seed: ``{task: {variant: {metric: [value a seed]}}}``."""
    total = len(seeds) * (1 + sum(len(v) for v in variants.values()))  # 1 for the teacher
    count = itertools.count(1)
    results = {}
    for seed, (task, compare) in itertools.product(seeds, TASKS.items()):
        start = time.perf_counter()
        for variant, metrics in compare(variants[task], train, held_out, seed):
            seconds = time.perf_counter() - start
            done = f"[{next(count):{len(str(total))}}/{total}]"
            print(f"{done} seed {seed}  {task:12}  {variant:32} {seconds:5.1f} s", flush=True)
            for metric, value in metrics.items():
                rows = results.setdefault(task, {}).setdefault(variant, {})
                rows.setdefault(metric, []).append(value)
            start = time.perf_counter()
    return results


def print_table(results, split):
    """One row a variant; the row above a task's first variant names its metrics."""
    width = max(len(variant) for rows in results.values() for variant in rows)
    for task, rows in results.items():
        first, *_ = rows.values()
        print(f"\n{task:14}{'':{width}}", *(f"{metric:>12}" for metric in first))
        for variant, metrics in rows.items():
            cells = (f"{describe(values):>12}" for values in metrics.values())
            print(f"{'':14}{variant:{width}}", *cells)
    count = len(next(iter(first.values())))
    spread = f"mean ± standard deviation over {count} seeds" if count > 1 else "one seed"
    print(f"\nIn % of the {split} split, {spread}.")


def print_best(results):
    """Of each family of the grid, the best mean over all metrics of the task."""
    for task, rows in results.items():
        sign = -1 if task == "embeddings" else 1  # an error, where the others are accuracies
        families = {variant.split(",")[0] for variant in rows if "," in variant}
        for family in sorted(families):
            members = [variant for variant in rows if variant.startswith(family)]
            best = max(members, key=lambda v, rows=rows: sign * np.mean(list(rows[v].values())))
            print(f"Best: {best}")


def draw(results, path):
    """The three results side by side, in a file."""
    drawing, [axes] = figure(1, 3, (10, 3.2), width_ratios=[1.5, 1.2, 1])
    draw_robustness(axes[0], results["robustness"])
    draw_distillation(axes[1], dict(results["distillation"]))
    draw_embeddings(axes[2], results["embeddings"])
    drawing.tight_layout(w_pad=2)
    with beside(path) as unfinished:
        drawing.savefig(unfinished, dpi=150)


def draw_robustness(axis, rows):
    styles = zip([VERMILION, BLUE], ["o", "s"], strict=True)
    for (variant, metrics), (color, marker) in zip(rows.items(), styles, strict=True):
        values = np.array(list(metrics.values()))
        mean, std = values.mean(axis=1), values.std(axis=1, ddof=values.shape[1] > 1)
        axis.plot(SIGMAS, mean, color=color, marker=marker, markersize=4, label=variant)
        axis.fill_between(SIGMAS, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
    axis.set(title="Robustness", xlabel="standard deviation of the noise (pixels in [0, 1])")
    axis.set(ylabel="test accuracy (%)", xticks=SIGMAS)
    axis.legend(frameon=False, loc="lower left")


def draw_distillation(axis, rows):
    teacher = np.mean(rows.pop("teacher")["accuracy"])
    axis.axhline(teacher, color=BLACK, linestyle="--", linewidth=1)
    axis.annotate("teacher", (-0.5, teacher), (0, -3), textcoords="offset points", va="top")
    draw_points(axis, rows, "accuracy", [VERMILION, GREEN, BLUE])
    axis.set(title="Distillation", ylabel="test accuracy of the student (%)")


def draw_embeddings(axis, rows):
    draw_points(axis, rows, "10-NN error", [VERMILION, BLUE])
    axis.set(title="Embeddings", ylabel="test error of 10-NN (%)")
    axis.set_ylim(bottom=0)


def draw_points(axis, rows, metric, colors):
    for place, (metrics, color) in enumerate(zip(rows.values(), colors, strict=True)):
        draw_point(axis, place, np.array(metrics[metric]), color)
    axis.set_xticks(range(len(rows)), [variant.replace(" ", "\n") for variant in rows])
    axis.set_xlim(-0.6, len(rows) - 0.4)


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed in place of --seeds")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="number of seeds")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the first seed")
    parser.add_argument("--figure", default="quickstart.png", metavar="PATH")
    parser.add_argument(
        "--select",
        action="store_true",
        help="try a grid of weights on the validation split, over seeds of its own, and print "
        "the table that the weights of this script come from; about 10 minutes",
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Returns what the table shows: ``{task: {variant: {metric: [percent, one a seed]}}}``."""
    args = parse(argv)
    start = time.perf_counter()
    train, validation, test = load_splits()
    if args.select:
        results = run(GRID, train, validation, SELECTION_SEEDS)
        print_table(results, "validation")
        print_best(results)
    else:
        seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
        results = run(CHOSEN, train, test, seeds)
        print_table(results, "test")
        draw(results, args.figure)
        print(f"\nFigure: {args.figure}")
    print(f"Total time: {time.perf_counter() - start:.0f} s")
    return results


if __name__ == "__main__":
    main()
