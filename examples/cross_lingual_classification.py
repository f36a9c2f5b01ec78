"""Does a classifier of questions in one language work in another, with an encoder it never saw?

Trains encoders of different architectures for each language, each on texts of that language alone,
and freezes them. TF-IDF sees no labels; the networks learn the coarse classes of their texts, and
other networks the fine ones. Then a linear head is trained on each encoder's codes of the training
texts: similarities to the same anchors, a list of texts that are known in both languages. Every
head is then put on every encoder, without further training.

    python examples/cross_lingual_classification.py --quick
    python examples/cross_lingual_classification.py                    # halves of documentation
    python examples/cross_lingual_classification.py --data trec --data-dir FOLDER
    python examples/cross_lingual_classification.py --select ...       # how the decay is chosen

What these texts are, and where to get them, is in ``text_data.py``; the encoders are in
``text_classifiers.py``. Both languages train on translations of the same texts, but only the
anchors tell an encoder which texts belong together. Controls: the anchors of one encoder in another
order, and absolute spaces, all of the same width; also, absolute spaces translated by a rotation
fitted on the anchors (Procrustes). --select chooses the decay of the heads by their scores in the
other language on a held-out tenth of the training texts, as the epochs and rates of the networks
were chosen. The table is that of Moschella et al., "Relative representations enable zero-shot
latent space communication", ICLR 2023, section 5. Prints its tables, and writes the accuracy
matrices into --output as heat maps. Needs the extras ``examples`` and ``text``.
"""

import common
import keras
import numpy as np
import text_data
from citation_graphs import draw_matrix
from keras import layers
from text_classifiers import ENCODERS, WITHOUT_LABELS

from keras_lgg import relative
from keras_lgg.checks import require
from keras_lgg.layers import RelativeRepresentation

LEVELS = text_data.Classes._fields
ACCURACY, F1 = "accuracy", "F1"
RELATIVE, PERMUTED = "relative", "permuted anchors"
PROCRUSTES, ABSOLUTE = "Procrustes", "absolute"
DECAYS = (100.0, 300.0, 1000.0, 3000.0, 10_000.0)  # that --select compares
OWN, OTHER = "own head", "head of the other language"


def accuracy(y, outputs):
    return 100 * np.mean(outputs.argmax(axis=1) == y)


def weighted_f1(y, outputs):
    """The mean of F1 over the classes, each as often as it occurs."""
    f1_score = require("sklearn.metrics", "text").f1_score
    return 100 * f1_score(y, outputs.argmax(axis=1), average="weighted", zero_division=0)


SCORES = {ACCURACY: accuracy, F1: weighted_f1}


def names(args):
    return [f"{kind}, {language}" for language in args.languages for kind in args.encoders]


def head(codes, labels, decay):
    """Linear, by least squares with a decay; its normalisation of the codes goes with it."""
    normalization = layers.LayerNormalization(epsilon=1e-5, center=False, scale=False)
    logits = layers.Dense(int(labels.max()) + 1)
    model = keras.Sequential([keras.Input(codes.shape[1:]), normalization, logits])
    inputs = keras.ops.convert_to_numpy(normalization(codes))
    ridge = require("sklearn.linear_model", "text").Ridge(decay)
    ridge.fit(inputs, np.eye(logits.units)[labels])
    logits.set_weights([ridge.coef_.T, ridge.intercept_])
    return model


def run_seed(args, seed):
    """Train all encoders and heads, and stitch: rows for `common.run`, or for `common.select`."""
    texts, train, test = text_data.with_classes(args)
    if args.select:
        texts, train, test = held_out(texts, train, seed)
    count = len(train.fine)
    if max(args.anchors) > count:
        expected = f"at most as many anchors as training texts, {count}"
        raise ValueError(f"There are too few texts. Expected {expected}. Received: {args.anchors}.")
    rows, known = [], {}
    for level in LEVELS:
        labels = getattr(train, level), getattr(test, level)
        spaces = list(encoded(args, texts, labels[0], level, seed, known))
        if args.select:
            rows += by_decay(args, spaces, labels, level, seed)
            continue
        for space, score, matrix in matrices(args, spaces, labels, seed):
            rows += rows_of(args, space, f"{level.capitalize()} {score}", matrix)
    return rows


def encoded(args, texts, labels, level, seed, known):
    """By encoder, which is trained here: the vectors of its training and its test texts.

    Those of encoders that look at no labels are kept in ``known``.
    """
    for i, name in enumerate(names(args)):
        kind, language = name.split(", ")
        if name in known:
            yield known[name]
            continue
        args.progress.say(f"{name}: {len(labels)} texts, {level} classes")
        own = texts.train[language]
        encode = ENCODERS[kind](own, labels, args, len(names(args)) * seed + i)
        space = [encode(part).astype("float32") for part in (own, texts.test[language])]
        if kind in WITHOUT_LABELS:
            known[name] = space
        yield space


def by_decay(args, spaces, labels, level, seed):
    """A row for each decay: means over the kinds of encoders, with the most anchors."""
    indices = chosen_anchors(len(labels[0]), args.anchors[-1], seed)
    inputs = [space for _, space in spaces]
    for decay in DECAYS:
        models = [with_codes(space, indices, labels[0], decay) for space, _ in spaces]
        matrix = relative.stitching_matrix(
            models, (None, labels[1]), accuracy, inputs=inputs, batch_size=len(labels[1])
        ).relative
        values = means_of_kinds(args, matrix)
        a, b = args.languages
        others = [values[f"{b} with the head of {a}"], values[f"{a} with the head of {b}"]]
        for metric, value in ((OWN, values[OWN]), (OTHER, np.mean(others))):
            yield {
                "variant": f"decay {decay:g}",
                "metric": f"{level} classes, {metric}",
                "value": value,
            }


def conclude(frame):
    """The decay of the best mean over both levels."""
    best = frame[frame["metric"].str.endswith(OTHER)].groupby("variant")["value"].mean().idxmax()
    return f"Chosen by the heads' accuracy in the other language: {best}."


def held_out(texts, classes, seed):
    """The training texts as texts to train with and texts to score on."""
    parts = text_data.held_out(classes.fine, seed)
    return (
        text_data.Texts(
            *({name: [all_[i] for i in p] for name, all_ in texts.train.items()} for p in parts)
        ),
        *(text_data.Classes(*(labels[p] for labels in classes)) for p in parts),
    )


def chosen_anchors(count, number, seed):
    return relative.select_anchors(np.arange(count)[:, None], number, seed=seed)


def matrices(args, spaces, labels, seed):
    """The scores of every encoder (row) with every head (column): ``(space, score, matrix)``."""
    train, test = labels
    absolute = []
    for space, _ in spaces:
        encoder = keras.Sequential([keras.Input(space.shape[1:]), layers.Identity()])
        absolute.append((encoder, head(space, train, args.decay)))
    options = {"inputs": [space for _, space in spaces], "batch_size": len(test), "seed": seed}
    for number in args.anchors:
        indices = chosen_anchors(len(train), number, seed)
        models = [with_codes(space, indices, train, args.decay) for space, _ in spaces]
        reports = relative.stitching_matrix(
            models,
            (None, test),
            list(SCORES.values()),
            absolute=absolute,
            translator=relative.Procrustes,
            anchors=[space[indices] for space, _ in spaces],
            **options,
        )
        for score, report in zip(SCORES, reports.values(), strict=True):
            yield named(RELATIVE, number), score, report.relative
            yield named(PERMUTED, number), score, report.permuted
            if number == args.anchors[0]:
                yield ABSOLUTE, score, report.absolute
            yield named(PROCRUSTES, number), score, report.translated


def named(space, number):
    return f"{space}, {number} anchors"


def with_codes(space, indices, labels, decay):
    """A frozen encoder's space, as relative codes, and the head that is trained on them."""
    codes = RelativeRepresentation(space[indices], indices=indices)
    encoder = keras.Sequential([keras.Input(space.shape[1:]), codes])
    return encoder, head(common.outputs(encoder, space), labels, decay)


def means_of_kinds(args, matrix):
    """Means over the kinds of pairs, by name."""
    kinds, tongues = np.array([name.split(", ") for name in names(args)]).T
    own_kind, own_tongue = (x[:, None] == x for x in (kinds, tongues))
    a, b = args.languages
    measured = {
        OWN: own_kind & own_tongue,
        f"{b} with the head of {a}": own_kind & (tongues[:, None] == b) & (tongues == a),
        f"{a} with the head of {b}": own_kind & (tongues[:, None] == a) & (tongues == b),
        "other encoder": ~own_kind & own_tongue,
        "other encoder and language": ~own_kind & ~own_tongue,
    }
    return {name: matrix[mask].mean() for name, mask in measured.items() if mask.any()}


def rows_of(args, space, score, matrix):
    """A row for each pair, and for the means over the kinds of pairs."""
    values = means_of_kinds(args, matrix)
    for i, name in enumerate(names(args)):
        values |= {f"{name} → {other}": matrix[i, j] for j, other in enumerate(names(args))}
    return [{"variant": space, "metric": f"{score}: {m}", "value": v} for m, v in values.items()]


def verdict(args, frame):
    """With the most anchors, the heads of the other language, both ways."""
    scored = frame["metric"].str.extract("(?P<level>.+) accuracy: .+ with the head of .+")["level"]
    rows = frame.assign(metric="other language, " + scored.str.lower() + " classes")
    means = rows[scored.notna()].groupby(["variant", "metric", "seed"], sort=False)["value"].mean()
    metrics = [f"other language, {level} classes" for level in LEVELS]
    baseline = named(PROCRUSTES, args.anchors[-1])
    return common.effects(means.reset_index(), baseline, dict.fromkeys(metrics, "max"))


def tables(args, frame):
    pairs = frame["metric"].str.contains("→")
    found = {f"{kind}, in %": table for kind, table in common.summaries(frame[~pairs]).items()}
    space = named(RELATIVE, args.anchors[-1])
    parts = frame["metric"].str.extract("(?P<score>.+): (?P<encoder>.+) → (?P<head>.+)")
    shown = frame.assign(**parts)[pairs & (frame["variant"] == space)]
    for score, matrix in shown.groupby("score", sort=False):
        caption = f"{score}, in %: each encoder (row) with each head (column), {space}"
        found[caption] = common.summary(matrix, "encoder", "head")
    return found


def draw(args, frame):
    """The accuracy matrices with the most anchors, means over the seeds."""
    most, shown = args.anchors[-1], names(args)
    spaces = [named(RELATIVE, most), named(PROCRUSTES, most), ABSOLUTE, named(PERMUTED, most)]
    figure, axes = common.figure(len(LEVELS), len(spaces), (13, 7.5), layout="constrained")
    means = frame.groupby(["variant", "metric"])["value"].mean()
    for i, level in enumerate(LEVELS):
        score = f"{level.capitalize()} {ACCURACY}"
        for axis, space in zip(axes[i], spaces, strict=True):
            values = means[space]
            matrix = np.array([[values[f"{score}: {a} → {b}"] for b in shown] for a in shown])
            draw_matrix(axis, matrix, shown)
            axis.set_title(f"{space}\n{score.lower()}, in %")
            axis.set_xticklabels(shown, rotation=45, ha="right", fontsize=8)
            if space != spaces[0]:
                axis.set_yticklabels([])
            if i == 0:
                axis.set(xticklabels=[], xlabel="")
        axes[i][0].set_ylabel("encoder of")
    return figure


def parse(argv):
    options = common.parser(__doc__, "cross_lingual_classification", epochs=None, batch_size=256)
    options.set_defaults(data="halves")
    add = options.add_argument
    add("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    add("--anchors", type=int, nargs="+", default=[300, 768], help="numbers of anchors")
    add("--width", type=int, default=300, help="width of the representations")
    add("--decay", type=float, default=3e3, help="decay of the heads, chosen by --select")
    add("--select", action="store_true", help="compare decays on held-out training texts instead")
    quick = {"encoders": ["TF-IDF", "CNN"], "anchors": [300], "width": 100}
    args = common.arguments(options, argv, quick=quick, small="halves")
    args.languages = text_data.languages(args.data)
    args.anchors.sort()
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``, in %."""
    args = parse(argv)
    if args.select:
        return common.select(args, run_seed, "Held-out training texts, accuracy in %", conclude)
    return common.run(args, run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    return (
        f"Encoders ({', '.join(args.encoders)}) of width {args.width}, trained on the texts of one "
        f"language each ({', '.join(args.languages)}) and frozen; TF-IDF without labels, the "
        "others on the coarse classes for coarse heads, on the fine ones for fine heads. Linear "
        f"heads by least squares with decay {args.decay:g}, on the codes of one encoder. Scores on "
        "the test texts; F1 is the mean over the classes, each as often as it occurs. The columns "
        "with two languages are means over pairs of encoders of one kind. Absolute spaces take no "
        "anchors; Procrustes rotates them, fitted on the anchors. The control has the anchors of "
        "the encoder in another order. In the figure: means over the seeds."
    )


if __name__ == "__main__":
    main()
