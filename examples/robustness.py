"""Does smooth geometry make a network robust? Plain, smooth geometry, Parseval, and both.

Trains the same network four ways and tests each under Gaussian noise, dropped units, quantized
weights, FGSM, PGD and the 15 common corruptions.

    python examples/robustness.py --quick               # digits, half a minute
    python examples/robustness.py                       # MNIST, a small CNN
    python examples/robustness.py --data cifar10 --network preact_resnet18 --epochs 100
    python examples/robustness.py --select ...          # how the penalty's weight is chosen

--select chooses the weight of the penalty on the validation split; the table is of the test split.
Needs the extras ``examples`` and ``robustness`` and, for data other than digits,
``datasets``. Prints one table and writes, into --output, the figure and each network of the first
seed as a plain Keras model of pixels in [0, 1].
"""

import common
import keras
import networks

import keras_lgg as lgg
from keras_lgg import robustness

VARIANTS = ["plain", "smooth geometry", "Parseval", "Parseval + smooth geometry"]
COLORS = [common.VERMILION, common.BLUE, common.ORANGE, common.PURPLE]
# By name: how to build it, the taps of the penalty, where units are dropped, the default width.
NETWORKS = {
    "small_cnn": (networks.small_cnn, networks.STAGES, networks.STAGES, 8),
    "preact_resnet18": (
        networks.preact_resnet18,
        networks.BLOCK_RELUS,
        [f"{block}_sum" for block in networks.BLOCKS],
        64,
    ),
    "wide_resnet": (
        networks.wide_resnet,
        networks.GROUPS,
        [f"{group}_sum" for group in networks.GROUPS],
        1,
    ),
    "vision_transformer": (
        networks.vision_transformer,
        networks.ENCODERS,
        [f"{encoder}_sum" for encoder in networks.ENCODERS],
        64,
    ),
}
# Noise from where it begins to be felt to where little is left, by set: in dB, and in pixels.
LEVELS = {
    "digits": {"snr": (20, 15, 10, 5), "epsilons": (0.02, 0.05, 0.1)},
    "mnist": {"snr": (10, 5, 2, 0, -2), "epsilons": (0.02, 0.05, 0.1)},
    "cifar10": {"snr": (20, 17, 14, 11, 8), "epsilons": (0.5 / 255, 1 / 255, 2 / 255)},
}
RATES = (0.1, 0.25, 0.4)  # of dropped units
BITS = (6, 5, 4)  # of quantized weights
# Released with the paper: CIFAR-10 as published, PreActResNet18 of full width, 100 epochs, mean
# and standard deviation over 10 runs. By row of the table, a value for each of VARIANTS.
PUBLISHED = {
    "clean": ("88.1 ± 0.2", "86.8 ± 0.2", "89.8 ± 0.2", "87.2 ± 0.2"),
    "Gaussian noise, 14 dB": ("34.5 ± 3.6", "43.1 ± 3.6", "33.7 ± 4.3", "50.2 ± 2.6"),
    "FGSM at SNR, 33 dB": ("16.9 ± 0.6", "24.7 ± 0.6", "26.6 ± 0.4", "28.6 ± 0.7"),
    "dropped units, 25 %": ("53.7", "73.1", "58.6", "56.2"),
    "dropped units, 40 %": ("41.2", "60.1", "39.7", "37.5"),
    "quantized weights, 5 bits": ("24.5", "49.7", "41.9", "28.5"),
}
PUBLISHED_WEIGHT = 1e-4
# By --select, recorded in docs/results/records/robustness.md; on digits no weight helped.
CHOSEN = {
    ("digits", "small_cnn"): 1e-6,
    ("mnist", "small_cnn"): 3e-5,
    ("mnist", "preact_resnet18"): 1e-4,
    ("mnist", "vision_transformer"): 1e-6,
    ("cifar10", "preact_resnet18"): 3e-5,
}
WEIGHTS = [0.0, 1e-6, 1e-5, 3e-5, 1e-4, 3e-4]  # of --select
SELECT = "compare these weights, or a grid of them, on the validation split instead"


def levels(args):
    """How strong noise and attacks are, for the set."""
    return LEVELS.get(args.data, LEVELS["cifar10"])


def build(args, data, *, parseval):
    builder, *_ = NETWORKS[args.network]
    constraint = lgg.constraints.Parseval(beta=0.01) if parseval else None
    return builder(data.shape, data.classes, width=args.width, constraint=constraint)


def train(args, arrays, seed, *, parseval, weight, label):
    """The trained network as a plain Keras model from pixels in [0, 1]."""
    data = common.pipelines(arrays, args, seed)
    keras.utils.set_random_seed(seed)
    model = network = build(args, data, parseval=parseval)
    if weight:
        loss = lgg.losses.SmoothnessVariation(power=args.power, num_classes=data.classes)
        model = lgg.GeometryModel(network, [lgg.Penalty(loss, taps=args.taps, weight=weight)])
    common.fit(model, common.cross_entropy(), data, args, seed=seed, label=label)
    plain = build(args, data, parseval=False)  # without the constraint, which is ours
    plain.set_weights(network.get_weights())
    return common.deployable(data, plain)


def run_seed(args, seed):
    """Train all variants and test them: rows for `common.run_seeds`."""
    arrays = common.load(args)
    find_corruptions(args, arrays.shape[:2])  # what is missing shows now, not after the training
    models = {
        variant: train(
            args,
            arrays,
            seed,
            parseval="Parseval" in variant,
            weight=args.weight if "smooth" in variant else 0,
            label=variant,
        )
        for variant in VARIANTS
    }
    if seed == args.seed:
        for variant, model in models.items():
            common.save(model, args, variant)
    return test(args, models, arrays.test, seed)


def test(args, models, data, seed):
    """Rows of accuracy in %, of every variant under every perturbation."""
    args.progress.say("perturbations")
    images, labels = data
    few = images[: args.few], labels[: args.few]  # where an image costs much
    epsilons = levels(args)["epsilons"]
    cheap = noise_and_faults(args, next(iter(models.values())))
    attacks = [
        robustness.FGSM(snr=(33,)),
        robustness.FGSM(epsilons=epsilons),
        robustness.PGD(norm="linf", epsilons=epsilons),
        robustness.PGD(norm="l2", epsilons=(0.25, 0.5)),
    ]
    tables = [
        robustness.evaluate(models, (images, labels), cheap, seed=seed, progress=False),
        robustness.evaluate(models, few, attacks, seed=seed, progress=False).query(
            "perturbation != 'clean'"
        ),
    ]
    rows = [row for table in tables for row in accuracies(table)]
    corruptions = find_corruptions(args, images.shape[1:3])
    if corruptions:
        rows += corruption_rows(args, models, few, corruptions, seed)
    return rows


def noise_and_faults(args, model):
    """Gaussian noise, dropped units, quantized weights."""
    units = [f"{model.layers[-1].name}/{layer}" for layer in NETWORKS[args.network][2]]
    return [
        robustness.GaussianNoise(snr=levels(args)["snr"]),
        robustness.DroppedUnits(units, rates=RATES),
        robustness.QuantizedWeights(bits=BITS),
    ]


def find_corruptions(args, size):
    """Those that fit images of this size, and the ready-made ones that were asked for."""
    found = []
    if min(size) >= 32:  # less is refused by the package
        found += robustness.common_corruptions()
    if args.ready_made:
        found += robustness.ready_made_corruptions(args.ready_made, data_dir=args.data_dir)
    return found


def corruption_rows(args, models, data, corruptions, seed):
    """Mean accuracies over the severities, and the mean corruption error relative to plain."""
    table = robustness.evaluate(
        models, data, corruptions, baseline="plain", seed=seed, progress=False
    )
    rows = accuracies(table.query("perturbation != 'clean'"), by_severity=False)
    errors = robustness.mean_corruption_error(table)
    return rows + [{"variant": v, "metric": "mCE", "value": errors[v]} for v in models]


def accuracies(table, *, by_severity=True):
    keys = ["model", "perturbation"] + ["severity"] * by_severity
    means = table.groupby(keys, sort=False, dropna=False)["accuracy"].mean().reset_index()
    return [
        {
            "variant": row["model"],
            "metric": title(row["perturbation"], row["severity"] if by_severity else None),
            "value": 100 * row["accuracy"],
        }
        for _, row in means.iterrows()
    ]


def title(perturbation, severity):
    """Of a row of the table, such as "Gaussian noise, 14 dB"."""
    if severity is None or severity != severity:
        return perturbation
    if "noise" in perturbation or "SNR" in perturbation:
        return f"{perturbation}, {severity:g} dB"
    if perturbation in ("dropped units", "dropped tokens", "typos"):
        return f"{perturbation}, {100 * severity:g} %"
    if perturbation == "quantized weights":
        return f"{perturbation}, {severity:g} bits"
    return f"{perturbation}, {severity:.3g}"


def select_seed(args, seed):
    """Accuracy on the validation split, clean, noisy and faulty, for each weight."""
    arrays = common.load(args)
    rows = []
    for weight in args.select or WEIGHTS:
        label = f"weight {weight:g}"
        model = train(args, arrays, seed, parseval=False, weight=weight, label=label)
        table = robustness.evaluate(
            {label: model},
            arrays.validation,
            noise_and_faults(args, model)[:2],
            seed=seed,
            progress=False,
        )
        rows += accuracies(table)
    return rows


def conclude(frame):
    """The rule by which a weight is chosen, and what it gives."""
    return (
        "Chosen by the best mean over noise and dropped units at a cost of at most one point of "
        f"clean accuracy: {common.most_robust(frame)}."
    )


def draw(args, frame):
    figure, axes = common.figure(2, 2, (7.6, 6.2))
    snr, epsilons = (levels(args)[name] for name in ("snr", "epsilons"))
    steps = {
        "Gaussian noise": ("SNR (dB)", snr, "dB"),
        "dropped units": ("share of the units dropped (%)", [100 * rate for rate in RATES], "%"),
        "quantized weights": ("bits of a weight", BITS, "bits"),
        "PGD L-inf": ("L∞ radius (1/255)", epsilons, None),
    }
    for axis, (name, (label, severities, unit)) in zip(axes.flat, steps.items(), strict=True):
        clean = 0 if unit is None or unit == "%" else None
        for variant, color, marker in zip(VARIANTS, COLORS, "osD^", strict=True):
            rows = frame[frame["variant"] == variant]
            names = [f"{name}, {s:.3g}" + (f" {unit}" if unit else "") for s in severities]
            x = list(severities)
            if clean is not None:
                x, names = [clean, *x], ["clean", *names]
            common.draw_band(axis, x, rows, names, color=color, marker=marker, label=variant)
        axis.set(title=name, xlabel=label, ylim=(0, 100))
        axis.set_xticks(x, [f"{255 * v:.3g}" if unit is None else f"{v:g}" for v in x])
        if clean is None:  # harder to the right
            axis.invert_xaxis()
    for left in axes[:, 0]:
        left.set_ylabel("test accuracy (%)")
    axes[0][0].legend(frameon=False, loc="lower left")
    return figure


def parse(argv):
    options = common.parser(__doc__, "robustness", epochs=8, batch_size=100)
    add = options.add_argument
    add("--network", choices=list(NETWORKS), default="small_cnn")
    add("--width", type=int, help="channels of the first block; by default those of the paper")
    add("--taps", nargs="*", help="layers of the penalty; by default as in the paper")
    add("--weight", type=float, help="of the penalty; by default the chosen or published one")
    add("--power", type=int, default=2, help="power of the Laplacian")
    add("--few", type=int, default=1000, help="test images for attacks and corruptions")
    add(
        "--ready-made",
        choices=["cifar10_corrupted", "mnist_corrupted"],
        help="test on this set of TensorFlow Datasets, too; it must be present",
    )
    common.add_resume(options)
    add("--select", type=float, nargs="*", metavar="WEIGHT", help=SELECT)
    args = common.arguments(options, argv, quick={"epochs": 10, "few": 200})
    args.taps = args.taps or NETWORKS[args.network][1]
    args.width = args.width or NETWORKS[args.network][3]
    args.subject.append(args.network)
    if args.weight is None:
        args.weight = CHOSEN.get((args.data, args.network), PUBLISHED_WEIGHT)
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``; accuracies in %."""
    args = parse(argv)
    if args.select is not None:
        return common.select(args, select_seed, "Accuracy on validation, in %", conclude)
    return common.run(args, run_seed, tables, draw, explain, verdict=verdict)


def verdict(args, frame):
    kinds = common.by_kind(frame)
    metrics = ["clean", "Gaussian noise", "dropped units"]
    return common.effects(kinds, "plain", dict.fromkeys(metrics, "max"))


def tables(args, frame):
    found = {"Accuracy on the test split, in %": common.summary(frame, "metric", "variant")}
    if args.data == "cifar10":
        found["Published, in %"] = common.pd.DataFrame(PUBLISHED, index=VARIANTS).T
    return found


def explain(args):
    taps = ", ".join(args.taps)
    text = (
        f"{args.network}, width {args.width}, {args.epochs} epochs, batches of {args.batch_size}; "
        f"penalty weight {args.weight:g} (p = {args.power}) at {taps}. Noise, dropped units and "
        "quantized weights on the whole test split; attacks and corruptions on its first "
        f"{args.few} images. A corruption's row is the mean over its five severities; mCE is "
        "relative to plain (100)."
    )
    if args.data == "cifar10":
        text += (
            " The published network is of full width, trained for 100 epochs on CIFAR-10 as it "
            "was published, and its dropped units and quantized weights may differ in detail: "
            "compare the differences between the columns, not the rows' levels."
        )
    return text


if __name__ == "__main__":
    main()
