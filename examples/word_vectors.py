"""Do word2vec and FastText agree on a word, in spaces that have nothing in common?

Trains both on the same texts, from different random vectors, and describes each word by the cosines
of its vector to those of some of the words, the anchors. Then words of one space are looked up
among those of the other: how many of the ten nearest are right (Jaccard index), at which rank is
the word itself (mean reciprocal rank), and how alike are its two descriptions (cosine)?

    python examples/word_vectors.py --quick
    python examples/word_vectors.py                     # paragraphs of documentation, minutes
    python examples/word_vectors.py --data multi30k --data-dir FOLDER
    python examples/word_vectors.py --data multi30k --architecture CBOW

The texts are English; what they are, and where to get them, is in ``text_data.py``. This follows
the table of word embeddings in Moschella et al., ICLR 2023, section 4.1, with its choices of
anchors; the paper used published vectors, trained on billions of words. The codes are compared with
codes of centred vectors, with the spaces as they are, with one of them rotated onto the other
(Procrustes, on the same anchors) and, as a control, with codes after permuting the anchors of one
space. Anchors are not among the compared words.

Both learn by skip-gram, which the authors of word2vec advise for rare words (in a small corpus,
most are rare), and for 20 epochs, as the texts are short; gensim's defaults are CBOW and 5. All
else but the buckets of FastText is as in gensim. Prints its tables and writes two figures into
--output. Needs the extras ``examples``, ``relative`` and ``text``.
"""

import collections
import itertools
import pathlib
import re

import common
import keras
import numpy as np
import text_data

from keras_lgg import relative
from keras_lgg.checks import require

# Of FastText's two million buckets for parts of words, a small vocabulary would fill few.
MODELS = {"word2vec": ("Word2Vec", {}), "FastText": ("FastText", {"bucket": 200_000})}
COLORS = dict(zip(MODELS, (common.BLUE, common.ORANGE), strict=True))
ARCHITECTURES = {"skip-gram": 1, "CBOW": 0}  # gensim's ``sg``
TOP = 1000  # words, by frequency
ANCHORS = {
    "uniform": "uniform",
    "farthest points": "fps",
    "k-means": "kmeans",
    f"top {TOP}": "top_n",
}
CENTRED, PROCRUSTES = "uniform, centred", "absolute, Procrustes"
ABSOLUTE, PERMUTED = "absolute", "permuted anchors"
SPACES = (*ANCHORS, CENTRED, PROCRUSTES, ABSOLUTE, PERMUTED)
K = 10
AGREEMENT = {f"Jaccard@{K}": f"jaccard@{K}", "MRR": "mrr", "cosine": "cosine"}
PICTURE = "spaces"
GROUPS, NEAREST = 6, 40  # of words that the picture shows in colour


def sentences(args):
    """The words of each text, in lower case."""
    texts = text_data.english(args)[: args.texts]
    return [re.findall(r"[^\W\d_]+", text.lower()) for text in texts]


def vocabulary(args, texts):
    """The words that are frequent enough to have a vector, by frequency."""
    counts = collections.Counter(itertools.chain(*texts))
    words = [word for word, count in counts.most_common() if count >= args.occurrences]
    if len(words) < args.anchors + K:
        raise ValueError(
            f"There are too few words. Expected at least {args.anchors + K} that occur "
            f"--occurrences {args.occurrences} times, --anchors {args.anchors} and {K} to compare. "
            f"Received: {len(words)} in {len(texts)} texts. Take fewer anchors or more texts."
        )
    return words


def train(args, name, texts, words, seed):
    """The vectors of the words."""
    model, options = MODELS[name]
    # With one worker the seed decides; more would take turns as it happens.
    trained = getattr(require("gensim.models", "text"), model)(
        texts,
        sg=ARCHITECTURES[args.architecture],
        vector_size=args.width,
        epochs=args.epochs,
        min_count=args.occurrences,
        batch_words=args.batch_size,
        workers=1,
        seed=seed,
        **options,
    )
    return np.stack([trained.wv[word] for word in words])


def run_seed(args, seed):
    """Train both, and compare their spaces both ways: rows for `common.run`."""
    texts = sentences(args)
    words = vocabulary(args, texts)
    spaces = {}
    count = sum(map(len, texts))
    for i, name in enumerate(MODELS):
        args.progress.say(f"{name}: {count} words, {len(words)} of them different and frequent")
        # Equal seeds would give both the same vectors to start from.
        spaces[name] = train(args, name, texts, words, len(MODELS) * seed + i)
    if seed == args.seed:
        save_picture(args, spaces, words, seed)
    return [
        {"variant": space, "metric": f"{a} → {b}: {name}", "value": found[key]}
        for a, b in itertools.permutations(MODELS, 2)
        for space, found in compared(args, spaces[a], spaces[b], seed)
        for name, key in AGREEMENT.items()
    ]


def compared(args, a, b, seed):
    """By name: how alike two spaces of the same words are; anchors are chosen in the first."""
    for name, method in ANCHORS.items():
        first = min(max(TOP, args.anchors), len(a)) if method == "top_n" else None
        anchors = relative.select_anchors(a, args.anchors, method=method, first=first, seed=seed)
        yield name, compare(codes(a, anchors), codes(b, anchors), anchors)
    anchors = relative.select_anchors(a, args.anchors, seed=seed)
    centred = (codes(x, anchors, "center") for x in (a, b))
    yield CENTRED, compare(*centred, anchors)
    rotated = relative.Procrustes().fit(a[anchors], b[anchors])(a)
    yield PROCRUSTES, compare(rotated, b, anchors)
    yield ABSOLUTE, compare(a, b, anchors)
    others = np.random.default_rng(seed).permutation(anchors)
    yield PERMUTED, compare(codes(a, others), codes(b, anchors), anchors)


def codes(x, anchors, normalization="none"):
    found = relative.relative_projection(x, x[anchors], normalization=normalization)
    return keras.ops.convert_to_numpy(found)


def compare(a, b, anchors):
    """Of the words that are no anchors."""
    a, b = (np.delete(x, anchors, axis=0) for x in (a, b))
    return relative.compare_spaces(a, b, k=K)


def save_picture(args, spaces, words, seed):
    """Both spaces, as they are and as codes, in the plane of the largest variance of the first."""
    anchors = relative.select_anchors(np.array(words), args.anchors, seed=seed)
    rows = {
        ABSOLUTE: spaces,
        "relative": {name: codes(x, anchors, "center") for name, x in spaces.items()},
    }
    groups = alike(rows["relative"][next(iter(MODELS))], seed)
    figure, axes = common.figure(2, 2, (8, 7.9), layout="constrained")
    for line, (kind, both) in zip(axes, rows.items(), strict=True):
        # One plane for both: what is alike stands in like places.
        planes = in_plane(*both.values())
        for axis, name, plane in zip(line, both, planes, strict=True):
            draw_words(axis, plane, groups, words)
            axis.set_title(f"{name}, {kind}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=GROUPS, frameon=False)
    path = pathlib.Path(args.output) / f"{common.slug(args)}_{PICTURE}.png"
    common.save_figure(figure, path)


def alike(x, seed):
    """Frequent words from different regions, each first among those nearest to it: indices."""
    centres = relative.select_anchors(x[:TOP], GROUPS, method="kmeans", seed=seed)
    unit = keras.utils.normalize(x)
    return np.argsort(-unit[centres] @ unit.T, axis=1, kind="stable")[:, :NEAREST]


def in_plane(first, *others):
    """The first two principal components, those of the first space, of rows of length 1."""
    first, *others = (keras.utils.normalize(x) for x in (first, *others))
    mean = first.mean(axis=0)
    axes = np.linalg.svd(first - mean, full_matrices=False)[2][:2]
    return [(x - mean) @ axes.T for x in (first, *others)]


def draw_words(axis, plane, groups, words):
    axis.scatter(*plane.T, s=2, color="#cccccc", linewidths=0)
    for group, color in zip(groups, common.PALETTE, strict=False):
        axis.scatter(*plane[group].T, s=9, color=color, linewidths=0)
    for group, color in zip(groups, common.PALETTE, strict=False):  # over all points
        style = {"color": color, "edgecolors": "black", "linewidths": 0.6, "zorder": 3}
        axis.scatter(*plane[group[0]], s=110, marker="*", label=words[group[0]], **style)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(True)


def verdict(args, frame):
    """The means of both directions."""
    metric, keys = frame["metric"].str.partition(": ")[2], ["variant", "metric", "seed"]
    means = frame.assign(metric=metric).groupby(keys, sort=False)["value"].mean() * 100
    shown = [name for name in AGREEMENT if name != "cosine"]  # large in a cone, whatever is said
    return common.effects(means.reset_index(), PROCRUSTES, dict.fromkeys(shown, "max"))


def tables(args, frame):
    """The same for each direction."""
    return {
        f"{direction}: words of the first among those of the second": table
        for direction, table in common.summaries(frame, digits=2).items()
    }


def draw(args, frame):
    """A metric a panel, both directions, each seed."""
    figure, axes = common.figure(1, len(AGREEMENT), (9, 3.4), sharey=True)
    for axis, metric in zip(axes.flat, AGREEMENT, strict=True):
        for shift, (a, b) in zip((-0.15, 0.15), itertools.permutations(MODELS, 2), strict=True):
            rows = frame[frame["metric"] == f"{a} → {b}: {metric}"]
            places = rows["variant"].map(SPACES.index) + shift
            label = f"{a} → {b}"
            axis.scatter(rows["value"], places, s=18, color=COLORS[a], alpha=0.7, label=label)
        axis.set(xlabel=metric, xlim=(-0.05, 1.05), yticks=range(len(SPACES)))
        axis.set_yticklabels(SPACES)
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(fontsize=8, framealpha=1, edgecolor="none")
    return figure


def parse(argv):
    options = common.parser(__doc__, "word_vectors", epochs=20, batch_size=10_000)
    options.set_defaults(data="documentation")
    add = options.add_argument
    add("--texts", type=int, default=29_000, help="training texts at most")
    add("--architecture", choices=ARCHITECTURES, default="skip-gram", help="of both")
    add("--anchors", type=int, default=300, help="words that describe the others")
    add("--occurrences", type=int, default=5, help="that a word needs for a vector")
    add("--width", type=int, default=100, help="width of the vectors")
    quick = {"texts": 1200, "anchors": 200}
    args = common.arguments(options, argv, quick=quick, small="documentation")
    if args.architecture != "skip-gram":
        args.subject.append(args.architecture)
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``; all at most 1."""
    return common.run(
        parse(argv), run_seed, tables, draw, explain, pictures=[PICTURE], verdict=verdict
    )


def explain(args):
    return (
        f"word2vec and FastText ({args.architecture}, width {args.width}, {args.epochs} epochs), "
        f"trained on the same English texts, at most {args.texts}; words that occur at least "
        f"{args.occurrences} times; {args.anchors} anchors, which are not among the compared words "
        "and are chosen in the first space of each direction. Plain cosines to the anchors, as in "
        "the paper, unless it says centred. All vectors of a space lie in a cone, so plain codes "
        "have a large cosine even if they are unrelated: see permuted anchors. The second figure "
        "shows the first seed, each row in one plane, "
        "that of the largest variance of word2vec, and each panel at its own scale; codes are "
        f"centred. Colours: {GROUPS} of the {TOP} most frequent words, which are stars, "
        f"and the {NEAREST} nearest to each by word2vec's codes."
    )


if __name__ == "__main__":
    main()
