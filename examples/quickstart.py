"""Four uses of latent geometry, each beside its baselines, on scikit-learn's 1,797 digits.

* Robustness: a small CNN on digits at random places of a larger image, plain and with smooth
  geometry, clean and under Gaussian noise.
* Distillation: a narrow student alone, with its teacher's logits, with RKD-D, and with GKD.
* Embeddings: two numbers per digit, by cross-entropy, graph smoothness or principal components, and
  the pixels themselves. 10-NN, also under noise, and the mean average precision.
* Stitching: the encoder of one network with the head of another, as they are, by Procrustes, and in
  relative representations.

    python examples/quickstart.py            # 3 seeds, under 3 minutes on 2 cores
    python examples/quickstart.py --quick    # 1 seed, half the epochs, under a minute
    python examples/quickstart.py --select   # how the settings were chosen, about 8 minutes

RKD-D and GKD have their default weights. The weights of smooth geometry and of the logits, and the
alpha of graph smoothness, were chosen on the validation split. The tasks were chosen so that the
method has something to gain: dense networks on centred digits gain almost nothing under noise, nor
does this CNN with Adam; a student half as wide again learns as much from logits; in 16 numbers,
cross-entropy is as good.

Nothing is downloaded. It needs the extra ``examples``. It prints the tables of the test split and a
verdict, draws them into a figure, and writes a page that looks into two networks. All
variants of a seed start from the same weights and see the same batches in the same order.
"""

import argparse
import functools
import pathlib
import time
from typing import NamedTuple

import asked_for_help  # noqa: F401 (it acts when it is imported, before the others)
import dense_networks
import keras
import networks
import numpy as np
from common import BLACK, BLUE, GREEN, PURPLE, VERMILION, cross_entropy, figure
from dense_networks import BLOCKS, classifier
from networks import STAGES
from progress import Progress
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

import keras_lgg as lgg
from keras_lgg import losses, relative, retrieval
from keras_lgg.comparison import Comparison, Measure
from keras_lgg.files import beside

SIGMAS = [0.0, 0.1, 0.2, 0.3]  # of the noise, for pixels in [0, 1]
NOISE_DRAWS = 10
SIDE = 16  # of the images that digits of 8 x 8 are put into
TEACHER, STUDENT = 128, 4  # widths of the blocks
NUMBERS = 2  # of an embedding
LATENT, ANCHORS = 32, 100
BATCH = 100
SELECTION_SEEDS = range(100, 105)  # none of those that are reported by default
PAIRS = [(name, name) for name in BLOCKS]
OURS = {"smooth geometry": BLUE, "GKD": BLUE, "graph smoothness": BLUE, "relative": BLUE}
OURS |= {"RKD-D": GREEN}


def smooth(weight):
    loss = losses.SmoothnessVariation(power=2, num_classes=10)
    return lgg.Penalty(loss, taps=STAGES, weight=weight)


def logits(weight):
    return lgg.Penalty(keras.distillation.LogitsDistillation(temperature=4.0), weight=weight)


# The numbers are the best of GRID on the validation split; --select prints that choice.
CHOSEN = {
    "robustness": {
        "plain": [],
        "smooth geometry": smooth(1e-5),
    },
    "distillation": {
        "student alone": [],
        "logits": logits(0.3),
        "RKD-D": lgg.Penalty(losses.RelationalDistance(), taps=PAIRS),
        "GKD": lgg.Penalty(losses.GraphDistillation(), taps=PAIRS),
    },
    "embeddings": {"cross-entropy": None, "graph smoothness": 0.125},  # its alpha
}
GRID = {
    "robustness": {"plain": []}
    | {"smooth geometry, default": smooth(None)}
    | {f"smooth geometry, {w:g}": smooth(w) for w in (1e-6, 3e-6, 5e-6, 1e-5, 2e-5, 5e-5)},
    "distillation": {"student alone": []}
    | {f"logits, {w:g}": logits(w) for w in (0.1, 0.3, 1, 3, 10)},
    "embeddings": {"cross-entropy": None}
    | {f"graph smoothness, {a:g}": a for a in (0.125, 0.25, 0.5, 1, 2)},
}


def load_splits():
    """Stratified train, validation and test splits of 1000, 297 and 500 digits."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=500, stratify=y, random_state=0)
    x, x_val, y, y_val = train_test_split(x, y, test_size=297, stratify=y, random_state=0)
    return (x, y), (x_val, y_val), (x_test, y_test)


def placed(data, seed):
    """Each digit at a random place of a larger image."""
    x, y = data
    places = np.random.default_rng(seed).integers(0, SIDE - 8 + 1, (len(x), 2))
    images = np.zeros((len(x), SIDE, SIDE, 1), "float32")
    for image, digit, (top, left) in zip(images, x, places, strict=True):
        image[top : top + 8, left : left + 8, 0] = digit.reshape(8, 8)
    return images, y


def compiled(model, loss, optimizer=None):
    model.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
        loss,
        # On CPU, XLA takes longer to compile under TensorFlow than these networks take to train.
        jit_compile=keras.backend.backend() == "jax",
        # To come back from a step takes as long as the step; Keras refuses more on PyTorch.
        steps_per_execution=1 if keras.backend.backend() == "torch" else 10,
    )
    return model


class Run(NamedTuple):
    """What a task trains on, is tried on, and how often."""

    data: dict[str, tuple[np.ndarray, np.ndarray]]  # of the splits "train" and "test"
    seeds: range
    epochs: int
    progress: keras.callbacks.Callback

    def compare(self, build, variants, measures, prepare=lambda data, seed: data):
        return lgg.compare(
            build,
            variants,
            prepare(self.data["train"], 0),
            test_data=prepare(self.data["test"], 1),
            measures=measures,
            seeds=self.seeds,
            progress=False,
            **self.options(),
        )

    def fit(self, model, seed):
        keras.utils.set_random_seed(seed)
        model.fit(*self.data["train"], verbose=0, **self.options())

    def options(self):
        return {"epochs": self.epochs, "batch_size": BATCH, "callbacks": [self.progress]}


def accuracy(network, x, y):
    return dense_networks.accuracy(network, {"test": (x, y)}, "test") / 100


def under_noise(name, sigma, score):
    """The score under `NOISE_DRAWS` draws of Gaussian noise, the same ones in each call."""

    def value(network, x, y):
        if not sigma:
            return score(network, x, y)
        x, y = np.concatenate([x] * NOISE_DRAWS), np.tile(y, NOISE_DRAWS)
        noise = np.random.default_rng(0).standard_normal(x.shape)
        return score(network, np.clip(x + sigma * noise, 0, 1).astype("float32"), y)

    return Measure(name, value, is_share=True)


def robustness(variants, run, trained):
    """Keeps the networks of the last seed in ``trained``."""

    def build(penalties):
        network = networks.small_cnn((SIDE, SIDE, 1), 10, width=8)
        trained["smooth geometry" if penalties else "plain"] = network
        steps = run.epochs * len(run.data["train"][0]) // BATCH
        rate = keras.optimizers.schedules.CosineDecay(0.1, steps)
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-3)
        return compiled(lgg.GeometryModel(network, penalties), cross_entropy(), optimizer)

    names = [f"noise {sigma:g}" if sigma else "clean" for sigma in SIGMAS]
    measures = [under_noise(*each, accuracy) for each in zip(names, SIGMAS, strict=True)]
    return run.compare(build, variants, measures, placed)


def distillation(variants, run):
    """Of one teacher, whose accuracy stands beside those of its students."""
    keras.utils.set_random_seed(0)
    teacher = compiled(classifier(run.data, TEACHER), cross_entropy())
    run.fit(teacher, 0)

    def build(penalties):
        student = classifier(run.data, STUDENT)
        return compiled(lgg.Distiller(teacher, student, penalties), cross_entropy())

    found = run.compare(build, variants, ["accuracy"])
    reached = np.full(len(run.seeds), 100 * accuracy(teacher, *run.data["test"]))
    return with_others(found, {"the teacher": {"accuracy": reached}})


def embeddings(variants, run):
    """Nothing is trained where the axes are principal, or the pixels stand for themselves."""

    def score(network, x, y):
        data = {"train": run.data["train"], "test": (x, y)}
        return dense_networks.neighbors(network.layers[0], data, "test") / 100

    def precision(network, x, y):
        return retrieval.evaluate(x, labels=y, model=network.layers[0])["map@r"]

    measures = [
        under_noise("10-NN", 0.0, score),
        under_noise("10-NN, noise 0.2", 0.2, score),
        Measure("map@r", precision, is_share=True),
    ]
    builders = {name: embedding(run, alpha) for name, alpha in variants.items()}
    found = run.compare(None, builders, measures)
    pixels = {
        "2 principal components": untrained(projection(run.data["train"][0])),
        "all 64 pixels": untrained(keras.layers.Identity()),
    }
    return with_others(
        found,
        {
            name: {
                m.name: np.full(len(run.seeds), m.of(network, *run.data["test"])) for m in measures
            }
            for name, network in pixels.items()
        },
    )


def embedding(run, alpha):
    """A function that builds a network, compiled with graph smoothness of this alpha.

    Its first layer embeds. Without an alpha, a layer of classes follows, and the loss is
    cross-entropy.
    """

    def build():
        first = dense_networks.embedder(run.data, TEACHER, NUMBERS)
        if alpha is None:
            return compiled(keras.Sequential([first, keras.layers.Dense(10)]), cross_entropy())
        # The mean over the batch, in place of the sum, keeps the steps of SGD small.
        loss = losses.GraphSmoothness(alpha=alpha, reduction="sum_over_batch_size")
        return compiled(keras.Sequential([first]), loss)

    return build


def untrained(layer):
    return keras.Sequential([keras.Sequential([keras.Input((64,)), layer])])


def projection(x):
    found = PCA(NUMBERS).fit(x)
    weights = [found.components_.T, -found.mean_ @ found.components_.T]
    layer = keras.layers.Dense(NUMBERS)
    layer.build(x.shape)
    layer.set_weights(weights)
    return layer


def with_others(found, others):
    return Comparison({**found.values, **others}, found.measures, found.seeds)


def stitching(run):
    """Two networks a seed, of two widths, trained apart: own heads, and heads exchanged."""
    x, y = run.data["train"]
    values = {}
    for seed in run.seeds:
        indices = relative.select_anchors(x, ANCHORS, method="stratified", labels=y, seed=seed)
        anchors = x[indices]
        absolute, codes = [], []
        for number, width in enumerate((64, 128)):
            keras.utils.set_random_seed(2 * seed + number)
            absolute.append(halves(run, encoder(width), LATENT, seed))
            layer = lgg.layers.RelativeRepresentation(
                anchors, encoder=encoder(width), indices=indices
            )
            codes.append(halves(run, layer, ANCHORS, seed))
        report = relative.stitching_matrix(
            codes,
            run.data["test"],
            "accuracy",
            absolute=absolute,
            translator=relative.Procrustes,
            anchors=anchors,
        )
        summary = report.summary()
        summary["Procrustes"] = summary["translated"]
        for variant in ("absolute", "Procrustes", "relative"):
            of = values.setdefault(variant, {"own head": [], "exchanged": []})
            of["own head"].append(100 * summary[variant]["self"])
            of["exchanged"].append(100 * summary[variant]["stitched"])
    arrays = {v: {name: np.array(each) for name, each in of.items()} for v, of in values.items()}
    return Comparison(arrays, [Measure(name, accuracy, is_share=True) for name in of], run.seeds)


def encoder(width):
    layers = [keras.layers.Dense(width, "relu"), keras.layers.Dense(LATENT)]
    return keras.Sequential([keras.Input((64,)), *layers])


def halves(run, first, width, seed):
    """Encoder and head, of codes so wide."""
    encode = keras.Sequential([keras.Input((64,)), first])
    layers = [keras.layers.LayerNormalization(), keras.layers.Dense(10)]
    head = keras.Sequential([keras.Input((width,)), *layers])
    run.fit(compiled(keras.Sequential([encode, head]), cross_entropy()), seed)
    return encode, head


def run_all(variants, run, trained):
    """A `Comparison` for each task."""
    tasks = {"robustness": functools.partial(robustness, trained=trained)}
    tasks |= {"distillation": distillation, "embeddings": embeddings}
    found = {}
    for task, of_task in variants.items():
        run.progress.training(task)
        found[task] = tasks[task](of_task, run)
    if variants is CHOSEN:
        run.progress.training("stitching")
        found["stitching"] = stitching(run)
    return found


def print_best(found):
    """Of each family of the grid, the best mean over all measures of the task."""
    for comparison in found.values():
        means = {v: np.mean(list(of.values())) for v, of in comparison.values.items() if ", " in v}
        for family in dict.fromkeys(variant.partition(",")[0] for variant in means):
            members = [variant for variant in means if variant.startswith(family)]
            print(f"Best: {max(members, key=means.get)}")


def draw(found, path):
    """A panel a task, in a file: by measure what each variant reaches."""
    drawing, axes = figure(2, 2, (7.6, 7))
    for axis, (task, comparison) in zip(axes.flat, found.items(), strict=True):
        draw_task(axis, comparison)
        axis.set_title(task.capitalize())
    for left in axes[:, 0]:
        left.set_ylabel("on the test split (%)")
    drawing.tight_layout(w_pad=1.5)
    with beside(path) as unfinished:
        drawing.savefig(unfinished, dpi=150)


def draw_task(axis, comparison):
    others = iter([VERMILION, PURPLE, "#999999", BLACK])
    count = len(comparison.values)
    for place, (variant, of) in enumerate(comparison.values.items()):
        mean, low, high = ([f(each) for each in of.values()] for f in (np.mean, np.min, np.max))
        x = np.arange(len(of)) + 0.6 * ((place + 0.5) / count - 0.5)
        color = OURS.get(variant) or next(others)
        bars = np.abs(np.array([low, high]) - mean)  # from the worst seed to the best
        marker = "s" if variant in OURS else "o"
        axis.errorbar(
            x, mean, bars, color=color, marker=marker, markersize=5, linestyle="", label=variant
        )
    names = [name.replace(", " if ", " in name else " ", "\n") for name in of]
    axis.set_xticks(range(len(of)), names)
    axis.set_xlim(-0.5, len(of) - 0.5)
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8)


def look_into(trained, data, path):
    """Networks side by side, on a page of the explorer."""
    x, y = placed(data, 1)
    lgg.explore(trained, x[:200], y[:200], layers=STAGES, pool="mean").save(path)


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one seed, and half the epochs")
    add("--seeds", type=int, default=3, metavar="N", help="number of seeds; by default 3")
    add("--seed", type=int, default=0, metavar="S", help="the first seed; by default 0")
    add("--output", default="quickstart", metavar="FOLDER", help="by default quickstart")
    add(
        "--select",
        action="store_true",
        help="try a grid of settings on the validation split, over separate seeds, and print "
        "the table that the settings of this script come from; about 8 minutes",
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Returns what was found: a dict from each task to its `Comparison`, in percent."""
    args = parse(argv)
    start = time.perf_counter()
    train, validation, test = load_splits()
    variants = GRID if args.select else CHOSEN
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    seeds = SELECTION_SEEDS if args.select else seeds
    each = sum(map(len, variants.values())) + 4 * (variants is CHOSEN)  # 4 to stitch
    trained = {}
    epochs = 10 if args.quick else 20
    data = {"train": train, "test": validation if args.select else test}
    run = Run(data, seeds, epochs, Progress(1 + len(seeds) * each))
    found = run_all(variants, run, trained)
    run.progress.clear()
    for task, comparison in found.items():
        print(f"\n\n{task.capitalize()}, {run_on(args, seeds)}\n\n{comparison}")
    if args.select:
        print_best(found)
    else:
        folder = pathlib.Path(args.output)
        draw(found, folder / "quickstart.png")
        look_into(trained, test, folder / "networks.html")
        print(f"\nFigure, and a page that looks into the networks: {folder}")
    print(f"Total time: {time.perf_counter() - start:.0f} s")
    return found


def run_on(args, seeds):
    split = "validation" if args.select else "test"
    many = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    return f"{split} split, {many}"


if __name__ == "__main__":
    main()
