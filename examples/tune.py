"""Which weight of the smoothness penalty makes a network most robust? A search, and its test.

For each seed: a search of 10 trials, including weight 0, for the best accuracy under Gaussian noise
on the validation split. Then the network is trained again on training and validation split with the
weight found, with one chosen by hand, with balanced weights and with none; each is tested once on
the test split.

    python examples/tune.py --quick            # digits, one seed, few epochs: does it run?
    python examples/tune.py                    # digits, 3 seeds
    python examples/tune.py --data mnist --epochs 8

Needs the extras ``examples``, ``plots`` and ``tuner`` and, for data other than digits,
``datasets``. Prints the trials and one table of the test split, and writes, into --output, the
figure and the network with the weight found for the first seed, as a plain Keras model of pixels
in [0, 1].
"""

import common
import keras
import networks
import numpy as np
from keras import layers

import keras_lgg as lgg

RANGE = (1e-6, 1e-3)  # beside 0; the largest one ruins the network
NOISES = (0.2, 0.3)  # standard deviations, for pixels in [0, 1]
DRAWS = 3  # of the noise
VALIDATION = 0.25  # share of the training split
# On validation splits, by weight_sensitivity.py for these digits, by robustness.py for MNIST.
HAND_CHOSEN = 3e-5
UNDER_NOISE = "under noise"
PLAIN, BY_HAND, SEARCHED = "no penalty", "chosen by hand", "searched"


def network(args, shape, classes):
    """The small MLP of weight_sensitivity.py, for digits, or the small CNN of robustness.py."""
    if args.data != "digits":
        return networks.small_cnn(shape, classes, width=8)
    model = keras.Sequential([keras.Input(shape), layers.Flatten()])
    for name in networks.STAGES:
        model.add(layers.Dense(32, use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU(name=name))
    model.add(layers.Dense(classes))
    return model


def builder(args, arrays):
    """``build(penalties)``, of compiled models."""

    def build(penalties):
        model = lgg.GeometryModel(network(args, arrays.shape, arrays.classes), penalties)
        # On CPU, XLA takes longer to compile under TensorFlow than these networks take to train.
        jit_compile = keras.backend.backend() == "jax"
        optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
        loss = common.cross_entropy()
        model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit_compile)
        return model

    return build


def penalty(arrays, weight=0.0, fraction=None):
    loss = lgg.losses.SmoothnessVariation(power=2, num_classes=arrays.classes)
    return lgg.Penalty(loss, taps=networks.STAGES, weight=weight, fraction=fraction)


def balanced(fraction):
    return f"balanced, {fraction:g}"


def noisy(data, sigmas, seed):
    """`DRAWS` copies of the data under noise of each standard deviation, after one another."""
    images, labels = data
    rng = np.random.default_rng(seed)
    copies = [
        np.clip(images + sigma * rng.standard_normal(images.shape), 0, 1).astype("float32")
        for sigma in sigmas
        for _ in range(DRAWS)
    ]
    return np.concatenate(copies), np.tile(labels, len(copies))


def search(args, arrays, seed):
    """The search on the validation split, as a `lgg.tuning.PenaltySearch`."""
    return lgg.tuning.search_penalty_weights(
        builder(args, arrays),
        penalty(arrays),
        arrays.train,
        validation_data=noisy(arrays.validation, NOISES, seed),
        weights=RANGE,
        trials=args.trials,
        executions_per_trial=args.executions,
        tuner=args.tuner,
        seed=seed,
        epochs=args.epochs,
        batch_size=args.batch_size,
        validation_batch_size=1000,
        verbose=0,
    )


def run_seed(args, seed):
    """Search, train anew and test: rows for `common.run_seeds`, those of trials with the trial."""
    arrays = split(args, seed)
    args.progress.say(f"search of {args.trials} trials")
    found = search(args, arrays, seed)
    rows = [
        {"variant": f"trial {trial['trial']}", "metric": metric, "value": value, "trial": number}
        for number, trial in enumerate(found.trials)
        for metric, value in trial_values(trial).items()
    ]
    (searched,) = found.best_penalties()
    penalties = {
        PLAIN: penalty(arrays),
        BY_HAND: penalty(arrays, HAND_CHOSEN),
        SEARCHED: searched,
    }
    for fraction in args.fractions:
        penalties[balanced(fraction)] = penalty(arrays, "balanced", fraction)
    both = [np.concatenate(parts) for parts in zip(arrays.train, arrays.validation, strict=True)]
    for variant, its_penalty in penalties.items():
        keras.utils.set_random_seed(seed)
        model = builder(args, arrays)([its_penalty])
        options = {"epochs": args.epochs, "batch_size": args.batch_size, "verbose": 0}
        model.fit(*both, callbacks=[args.progress.training(variant)], **options)
        if variant == SEARCHED and seed == args.seed:
            common.save(model.base, args, SEARCHED)
        accuracies = test(model.base, arrays.test, seed)
        rows += [{"variant": variant, "metric": m, "value": v} for m, v in accuracies.items()]
    return rows


def split(args, seed):
    """Pixels in [0, 1]; of the training split, a part is for validation."""
    arrays = lgg.datasets.arrays(args.data, validation=VALIDATION, data_dir=args.data_dir)
    arrays = common.few(arrays, args.samples, seed)

    def unit(data):
        return (data[0] / 255).astype("float32"), data[1]

    parts = {name: unit(getattr(arrays, name)) for name in ("train", "validation", "test")}
    return arrays._replace(**parts)


def trial_values(trial):
    """Of a trial: its weight, and its score in %."""
    (weight,) = trial["weights"].values()
    return {"weight": weight, "score": 100 * trial["score"]}


def test(model, data, seed):
    """Accuracy in %, clean, at each level of noise, and the mean of these levels."""
    found = {"clean": accuracy(model, *data)}
    noises = {f"noise {s:g}": accuracy(model, *noisy(data, [s], seed)) for s in NOISES}
    return {**found, **noises, UNDER_NOISE: float(np.mean(list(noises.values())))}


def accuracy(model, images, labels):
    found = common.outputs(model, images).argmax(axis=1)
    return 100 * float(np.mean(found == labels))


def trials_table(frame):
    """The trials of each seed, with a star at the weight that was chosen."""
    columns = {}
    for seed, rows in trials_of(frame).groupby("seed"):
        values = rows.pivot_table(index="trial", columns="metric", values="value")
        best = values["score"].idxmax()
        columns[f"seed {seed}"] = [
            f"{row['weight']:.3g}: {row['score']:.1f}{' *' if trial == best else ''}"
            for trial, row in values.iterrows()
        ]
    return common.pd.DataFrame({k: common.pd.Series(v) for k, v in columns.items()}).fillna("")


def trials_of(frame):
    return frame[frame["trial"].notna()]


def draw(args, frame):
    """The trials of all seeds."""
    rows = trials_of(frame).pivot_table(index=["seed", "trial"], columns="metric", values="value")
    name, metric = "smoothness_variation", f"accuracy {UNDER_NOISE} (%)"
    trials = [
        {"weights": {name: row["weight"]}, "metrics": {metric: row["score"]}}
        for _, row in rows.iterrows()
    ]
    return lgg.plots.trade_off(trials, penalty=name, metric=metric, title="Trials, on validation")


def parse(argv):
    options = common.parser(__doc__, "tune", epochs=60, batch_size=100)
    options.set_defaults(data="digits")
    add = options.add_argument
    add("--trials", type=int, default=10, help="trials per search; the first has weight 0")
    add("--executions", type=int, default=1, help="networks trained for each trial")
    add("--tuner", choices=["bayesian", "random"], default="bayesian")
    add("--samples", type=int, default=10_000, help="training samples at most")
    add("--fractions", type=float, nargs="*", default=[0.1, 10.0], help="of balanced weights")
    return common.arguments(options, argv, quick={"epochs": 7, "trials": 3, "fractions": [0.1]})


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, trial, seed``.

    Rows with a trial are of the searches: its weight, and its score in % of the validation split.
    The others are accuracies in % of the test split.
    """
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    tested = frame[frame["trial"].isna()]
    return common.effects(tested, PLAIN, dict.fromkeys(["clean", UNDER_NOISE], "max"))


def tables(args, frame):
    tested = frame[frame["trial"].isna()]
    return {
        "Accuracy on the test split, in %": common.summary(tested, "variant", "metric"),
        "Trials of each search, as weight: accuracy under noise on validation, in %": trials_table(
            frame
        ),
    }


def explain(args):
    return (
        f"{args.trials} trials per seed by the {args.tuner} tuner, of 0 and weights from "
        f"{RANGE[0]:g} to {RANGE[1]:g}, {args.executions} trained for each, {args.epochs} epochs, "
        f"batches of {args.batch_size}. A trial counts by its best epoch; a star is at the weight "
        "that was chosen. Under noise: the mean over the standard deviations "
        f"{', '.join(f'{s:g}' for s in NOISES)}. Tested once on the test split: the "
        "network trained again on training and validation split, with the weight found for its "
        f"seed, with {HAND_CHOSEN:g}, which was chosen by hand, with balanced weights, whose names "
        "give the fractions, and with 0."
    )


if __name__ == "__main__":
    main()
