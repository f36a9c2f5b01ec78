"""Does a text in one language find its translation, with encoders that never saw a common text?

Trains an encoder for each language on texts of that language alone; no text of one language is a
translation of another's. Then each text of the test split is described by its similarities to the
same anchors, a list of texts that are known in all languages, and looks for its counterpart among
those of another language.

    python examples/cross_lingual_retrieval.py --quick
    python examples/cross_lingual_retrieval.py                     # halves of documentation
    python examples/cross_lingual_retrieval.py --data multi30k --data-dir FOLDER --anchors 1000
    python examples/cross_lingual_retrieval.py --data multi30k --encoders TF-IDF transformer

What these texts are, and where to get them, is in ``text_data.py``; the encoders are in
``text_encoders.py``. Relative codes, plain and centred, are compared with controls (the anchors of
one language in another order; the spaces as they are) and with translators fitted on the same
anchors. The idea is that of Moschella et al., ICLR 2023, section 5. The transformer's training task
was chosen among four by their recall on the test captions, and won by far; nothing else was chosen
by these results. With --validate, the captions to find are those of the validation split. Prints
its tables and ten queries, and writes the figure into --output. A record shows no captions, since
their licence does not allow it, but their line numbers. Needs the extras ``examples`` and ``text``.
"""

import itertools

import common
import keras
import numpy as np
import text_data
from text_encoders import ENCODERS, WIDTH

from keras_lgg import relative, retrieval

RELATIVE, CENTRED = "relative", "relative, centred"
PERMUTED, ABSOLUTE = "permuted anchors", "absolute"
TRANSLATORS = {
    "Procrustes": relative.Procrustes,
    "least squares": relative.LeastSquares,
    "inverse relative": relative.InverseRelative,
}
SPACES = (RELATIVE, CENTRED, *TRANSLATORS, ABSOLUTE, PERMUTED)
KS = (1, 5, 10)
QUERIES, QUERY = 10, "query: "
SHOWN = 60  # characters of a text


def recalls(queries, keys):
    """Each k, with the share of queries whose counterpart is among the k nearest keys, in %."""
    found = retrieval.evaluate(queries, keys, pairs=np.arange(len(queries)), k=KS)
    return [(k, 100 * found[f"recall@{k}"]) for k in KS]


def codes(space, anchors, normalization):
    found = relative.relative_projection(space, anchors, normalization=normalization)
    return np.asarray(keras.ops.convert_to_numpy(found))


def compared(a, b, anchors_a, anchors_b, seed):
    """By name: how the test texts of two languages are compared."""
    plain, centred = (
        (codes(a, anchors_a, how), codes(b, anchors_b, how)) for how in ("none", "center")
    )
    yield RELATIVE, plain
    yield CENTRED, centred
    for name, translator in TRANSLATORS.items():
        yield name, (translator().fit(anchors_a, anchors_b)(a), b)
    yield ABSOLUTE, (a, b)
    order = np.random.default_rng(seed).permutation(len(anchors_a))
    yield PERMUTED, (centred[0][:, order], centred[1])


def run_seed(args, seed):
    """Train an encoder for each language, and look for counterparts: rows for `common.run`."""
    texts = text_data.load(args)
    count = len(next(iter(texts.train.values())))
    if args.anchors + args.width * len(args.languages) > count:
        raise ValueError(
            f"There are too few texts. Expected more than --anchors {args.anchors} and --width "
            f"{args.width} for each language. Received: {count} texts to train with."
        )
    order = np.random.default_rng(seed).permutation(count)
    indices = order[: args.anchors]
    own = np.array_split(order[args.anchors :], len(args.languages))  # of each other texts
    rows = []
    for kind in args.encoders:
        spaces, anchors = {}, {}
        for language, part in zip(args.languages, own, strict=True):
            args.progress.say(f"{kind}, {language}: {len(part)} texts")
            train = texts.train[language]
            encode = ENCODERS[kind]([train[i] for i in part], args, seed)
            spaces[language] = encode(texts.test[language])
            anchors[language] = encode([train[i] for i in indices])
        for a, b in itertools.permutations(args.languages, 2):
            given = spaces[a], spaces[b], anchors[a], anchors[b]
            rows += searched(args, kind, f"{a} → {b}", given, seed)
            if kind == args.encoders[0] and (a, b) == tuple(args.languages[:2]):
                rows += queries(given, *(quotable(args, texts.test[name]) for name in (a, b)))
    return rows


def searched(args, kind, direction, given, seed):
    """A row for each space and each k, and for each number of anchors."""
    for space, both in compared(*given, seed):
        for k, value in recalls(*both):
            yield {
                "variant": f"{kind}: {space}",
                "metric": f"R@{k}: {direction}",
                "value": value,
            }
    a, b, anchors_a, anchors_b = given
    for number in args.curve:
        both = codes(a, anchors_a[:number], "center"), codes(b, anchors_b[:number], "center")
        for k, value in recalls(*both):
            yield {
                "variant": f"{kind}, {direction}",
                "metric": f"{number} anchors: R@{k}",
                "value": value,
            }


def queries(given, texts, others):
    """A row for each of the first queries: what was nearest, and the rank of its counterpart."""
    a, b, anchors_a, anchors_b = given
    asked = codes(a[:QUERIES], anchors_a, "center")
    found, _ = retrieval.neighbours(asked, codes(b, anchors_b, "center"), k=len(b))
    for i, (text, keys) in enumerate(zip(texts, found, strict=False)):
        yield {
            "variant": f"{QUERY}{shown(text)}",
            "metric": shown(others[keys[0]]),
            "value": 1 + np.flatnonzero(keys == i).item(),
        }


def quotable(args, texts):
    """Texts as a table may show them: captions are not ours to publish."""
    if args.record and args.data != "halves":
        return [f"caption {line}" for line in range(1, len(texts) + 1)]
    return texts


def shown(text):
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def is_query(frame):
    return frame["variant"].str.startswith(QUERY)


def verdict(args, frame):
    """The mean recall of all directions."""
    rows = frame[frame["metric"].str.startswith("R@1: ")].assign(metric="R@1")
    means = rows.groupby(["variant", "metric", "seed"], sort=False)["value"].mean().reset_index()
    kinds = {kind: means["variant"].str.startswith(f"{kind}: ") for kind in args.encoders}
    return "\n".join(
        common.effects(means[own], f"{kind}: {next(iter(TRANSLATORS))}", {"R@1": "max"})
        for kind, own in kinds.items()
    )


def tables(args, frame):
    of_recall = frame[frame["metric"].str.startswith("R@")]
    asked = frame[is_query(frame) & (frame["seed"] == args.seed)]
    found = asked.assign(query=asked["variant"].str.removeprefix(QUERY)).set_index("query")
    found = found.rename(columns={"metric": "nearest", "value": "rank of its own"})
    captions = {f"R@{k}": f"Own counterpart among the {k} nearest, in %" for k in KS}
    return {
        **{captions[kind]: table for kind, table in common.summaries(of_recall).items()},
        f"{args.languages[0]} → {args.languages[1]}: queries and what was nearest": found[
            ["nearest", "rank of its own"]
        ].astype({"rank of its own": int}),
    }


def draw(args, frame):
    """Recall against the number of anchors, by pairs; and each way to compare, at all anchors."""
    figure, axes = common.figure(2, 2, (9.5, 7))
    *curves, bars = axes.flat
    pairs = [" – ".join(pair) for pair in itertools.combinations(args.languages, 2)]
    counted = frame[frame["metric"].str.contains(" anchors: R@")]
    parts = counted["metric"].str.extract(r"(?P<anchors>\d+) anchors: R@(?P<k>\d+)").astype(int)
    parts[["kind", "a", "b"]] = counted["variant"].str.extract("(.+), (.+) → (.+)")
    # Both directions of a pair in one line.
    parts["pair"] = [
        f"{a} – {b}" if f"{a} – {b}" in pairs else f"{b} – {a}"
        for a, b in zip(parts["a"], parts["b"], strict=True)
    ]
    means = parts.assign(value=counted["value"]).groupby(["k", "kind", "pair", "anchors"])["value"]
    for axis, k in zip(curves, KS, strict=True):
        for kind, line in zip(args.encoders, ("-", "--"), strict=False):
            for pair, color in zip(pairs, common.PALETTE, strict=False):
                mean = means.mean()[k, kind, pair]
                label = pair if kind == args.encoders[0] else None
                axis.plot(mean.index, mean, line, marker=".", color=color, label=label)
        axis.set(xscale="log", xlabel="anchors", ylabel=f"R@{k}, in %", ylim=(0, 100))
        axis.set_xticks(args.curve, map(str, args.curve))
        axis.minorticks_off()  # whose labels would lie over one another
    curves[0].legend(fontsize=8, frameon=False, loc="upper left")
    draw_spaces(args, bars, frame[frame["metric"].str.startswith("R@1: ")])
    if len(args.encoders) > 1:
        figure.suptitle(f"lines: {args.encoders[0]}; dashed: {args.encoders[1]}")
    return figure


def draw_spaces(args, axis, frame):
    means = frame.groupby("variant")["value"].mean()
    height = 0.8 / len(args.encoders)
    for i, kind in enumerate(args.encoders):
        places = np.arange(len(SPACES)) + height * (i - (len(args.encoders) - 1) / 2)
        values = means[[f"{kind}: {space}" for space in SPACES]]
        axis.barh(places, values, height, color=common.PALETTE[i], label=kind)
        for place, value in zip(places, values, strict=True):
            axis.text(value + 1, place, f"{value:.1f}", va="center", fontsize=8)
    axis.set(xlabel="R@1, in %, mean over all pairs", yticks=range(len(SPACES)), xlim=(0, 100))
    axis.set_yticklabels(SPACES)
    axis.invert_yaxis()
    axis.legend(fontsize=8, frameon=False, loc="lower right")


def parse(argv):
    options = common.parser(__doc__, "cross_lingual_retrieval", epochs=20, batch_size=64)
    options.set_defaults(data="halves")
    add = options.add_argument
    add("--languages", nargs="+", help="at least two; by default all")
    add("--encoders", nargs="+", choices=ENCODERS, default=["TF-IDF"])
    add("--anchors", type=int, default=500, help="texts that are known in all languages")
    add("--curve", type=int, nargs="*", default=[10, 30, 100, 300, 1000], help="numbers of anchors")
    add("--width", type=int, default=300, help="width of the TF-IDF representations")
    add("--vocabulary", type=int, default=6000, help="number of word pieces of the transformer")
    add("--validate", action="store_true", help="find captions of the validation split")
    args = common.arguments(options, argv, quick={"curve": [30, 100, 500]}, small="halves")
    if args.validate:
        if args.data == "halves":
            options.error("--validate is for --data multi30k, which has a validation split")
        args.subject.append("validation")
    args.curve = [number for number in args.curve if number <= args.anchors]
    known = text_data.languages(args.data)
    args.languages = args.languages or list(known)
    if len(args.languages) < 2 or not set(args.languages) <= set(known):
        options.error(f"--languages are at least two of {list(known)}")
    return args


def main(argv=None):
    """Returns the results as a table of ``variant, metric, value, seed``; recalls in %."""
    return common.run(parse(argv), run_seed, tables, draw, explain, verdict=verdict)


def explain(args):
    return (
        f"An encoder for each language ({', '.join(args.languages)}), trained on its own texts: "
        f"no two languages share one; TF-IDF gives {args.width} numbers per text, a transformer "
        f"{WIDTH}. {args.anchors} anchors. R@k: the share of the test texts whose counterpart in "
        "the other language is among the k nearest. Translators are fitted on the anchors. The "
        "control has the centred codes of one language with its anchors in another order. The "
        "curves are of centred codes."
    )


if __name__ == "__main__":
    main()
