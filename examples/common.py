"""What the examples share: options, training, seeds side by side, tables, figures, records."""

import argparse
import concurrent.futures
import contextlib
import functools
import hashlib
import logging
import multiprocessing
import os
import pathlib
import platform
import shlex
import shutil
import sys
import time
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import asked_for_help  # noqa: F401 (it acts when it is imported, before the others)
import keras
import matplotlib
import numpy as np
import pandas as pd
from keras import ops
from progress import Progress

from keras_lgg import comparison, datasets, relative
from keras_lgg.callbacks import AtomicBackup
from keras_lgg.files import beside

# Many small networks are traced here; TensorFlow takes them for one that is traced again and again.
logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())

# Options that change none of the trainings.
ELSEWHERE = {"argv", "data_dir", "jobs", "methods", "note", "output", "progress", "record"}
ELSEWHERE |= {"redraw", "resume", "seeds", "subject"}
SELECTION_SEEDS = 100  # the first of those that settings are chosen with
# The colours of Okabe and Ito, which colour-blind readers can tell apart.
BLACK, ORANGE, BLUE, GREEN, VERMILION = "#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW = "#56B4E9", "#CC79A7", "#F0E442"
PALETTE = [BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK, "#999999", "#8C564B"]


def parser(doc, name, *, epochs, batch_size):
    """The options that every example has; `doc` is its docstring."""
    options = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.set_defaults(example=name)
    add = options.add_argument
    add("--data", default="mnist", help="digits, or a name of TensorFlow Datasets")
    add("--data-dir", help="folder of TensorFlow Datasets (by default TFDS_DATA_DIR)")
    add("--seeds", type=int, default=3, metavar="N", help="number of seeds")
    add("--seed", type=int, default=0, metavar="S", help="the first seed")
    add("--epochs", type=int, default=epochs)
    add("--batch-size", type=int, default=batch_size)
    add("--augment", nargs="*", default=[], help="crop, flip")
    add("--jobs", type=int, default=1, metavar="N", help="seeds that run in parallel")
    add("--quick", action="store_true", help="digits, one seed, few epochs: under a minute or two")
    add("--output", default=name, metavar="FOLDER", help="folder for the figure and the models")
    add("--record", metavar="PATH", help="write tables, figure and values into this Markdown page")
    add("--redraw", action="store_true", help="draw the figure of --record anew, without training")
    add("--note", default="", help="a sentence for the record, such as where the data is from")
    return options


def run(args, run_seed, tables, draw, explain, *, pictures=(), verdict=None):
    """What an example does: every seed, then its tables, its figure and, if asked, its record.

    Args:
        args: The options.
        run_seed: As `run_seeds` takes it.
        tables: ``tables(args, frame)`` is a dict from captions to tables of texts.
        draw: ``draw(args, frame)`` is the matplotlib figure.
        explain: ``explain(args)`` is Markdown that says what the numbers mean.
        pictures: Names of further pictures, which lie in the folder of the output already.
        verdict: ``verdict(args, frame)`` says in words what was found, such as `effects`.

    Returns:
        The table of `run_seeds`.
    """
    if args.redraw:
        return _redraw(args, draw)
    frame = run_seeds(run_seed, args)
    said = "" if verdict is None else verdict(args, frame)
    made = tables(args, frame), draw(args, frame), explain(args)
    finish(args, frame, *made, pictures=pictures, verdict=said)
    return frame


def _redraw(args, draw):
    """The figure of a record, from its values."""
    if not args.record:
        raise SystemExit("Nothing to redraw. Expected a page that holds the record: --record PATH.")
    picture = _recorded(args)
    frame = pd.read_csv(picture.with_suffix(".csv"))
    _draw_into(picture, draw(args, frame))
    return frame


class Measured(NamedTuple):
    """What a `Comparison` has to know of values that an example has measured."""

    name: str
    best: str
    is_share: bool


def effects(frame, baseline, metrics, *, are_shares=True):
    """In words what each variant brings, to a baseline and seed by seed: the mean ± the spread.

    Args:
        frame: As of `run_seeds`; variants that lack one of the metrics are left out.
        baseline: Name of the variant that the others are compared with.
        metrics: Dict from what is compared to ``"max"`` where more of it is better, or ``"min"``;
            a " (%)" behind it is not said.
        are_shares: Whether the values are in percent.
    """
    values = frame[frame["metric"].isin(metrics)].pivot_table(
        index="variant", columns=["metric", "seed"], values="value", sort=False
    )
    values = values[list(metrics)].dropna()
    names = {metric: metric.removesuffix(" (%)") for metric in metrics}
    measured = [Measured(names[m], best, are_shares) for m, best in metrics.items()]
    variants = [baseline, *(v for v in values.index if v != baseline)]
    found = {v: {name: values.loc[v, m].to_numpy() for m, name in names.items()} for v in variants}
    seeds = values.columns.get_level_values("seed").unique()
    return comparison.Comparison(found, measured, list(seeds)).verdict()


def effects_by_case(cases, baseline, metrics):
    """`effects` of each case, a pair of its name and its frame; lines begin with the name."""
    return "\n".join(
        f"{name}: {line}"
        for name, frame in cases
        for line in effects(frame, baseline, metrics).splitlines()
    )


def by_kind(frame, *keys):
    """Means over the severities of each perturbation, whose metrics are ``"kind, severity"``.

    Rows are told apart by variant, seed and ``keys``.
    """
    kinds = frame.assign(metric=frame["metric"].str.partition(", ")[0])
    groups = kinds.groupby([*keys, "variant", "metric", "seed"], sort=False, as_index=False)
    return groups["value"].mean()


def select(args, run_seed, caption, conclude):
    """What an example does with --select: every seed, a table, and ``conclude(frame)`` of it."""
    frame = run_seeds(run_seed, args)
    finish_selection(args, frame, caption, conclude(frame))
    return frame


def run_seeds(run_seed, args):
    """``run_seed(args, seed)`` for each seed, side by side in processes where asked.

    Each gives rows ``{"variant", "metric", "value"}``; returns them all as one table, in which
    the order of the first appearance is kept, with the seconds it took in ``attrs``.
    """
    start = time.perf_counter()
    seeds = range(args.seed, args.seed + args.seeds)
    run = functools.partial(_table_of_seed, run_seed, args)
    if args.jobs == 1:
        frames = [run(seed) for seed in seeds]
        args.progress.clear()
    else:
        args.progress.is_log = True  # processes cannot share a line
        cores = max(1, (os.cpu_count() or 1) // args.jobs)
        os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(cores)
        pool = concurrent.futures.ProcessPoolExecutor(
            args.jobs, mp_context=multiprocessing.get_context("spawn")
        )
        with pool:
            frames = list(pool.map(run, seeds))
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs["seconds"] = time.perf_counter() - start
    return frame


def _table_of_seed(run_seed, args, seed):
    progress = args.progress
    progress.seed = seed
    frame = pd.DataFrame(run_seed(args, seed)).assign(seed=seed)
    if args.jobs == 1 and not progress.total:  # every seed trains as many networks
        progress.total = args.seeds * progress.count
    return frame


def load(args):
    return datasets.arrays(args.data, data_dir=args.data_dir)


def few(arrays, count, seed):
    """The same, with so many training samples at most, of every class as many."""
    images, labels = arrays.train
    if count >= len(images):
        return arrays
    keep = relative.select_anchors(images, count, method="stratified", labels=labels, seed=seed)
    return arrays._replace(train=(images[keep], labels[keep]))


def pipelines(arrays, args, seed):
    """The same batches in the same order for every variant of a seed."""
    return datasets.pipelines(arrays, batch_size=args.batch_size, augment=args.augment, seed=seed)


def fit(
    model,
    loss,
    data,
    args,
    *,
    seed,
    label,
    metrics=("accuracy",),
    callbacks=(),
    weight_decay=5e-3,
    ends_at=0.0,
):
    """SGD with momentum, or Adam for transformers.

    ``ends_at`` is the share of the highest learning rate that is left at the end.
    """
    adam = any(isinstance(x, keras.layers.MultiHeadAttention) for x in model._flatten_layers())
    schedule = WarmCosine(2e-3 if adam else 0.1, args.epochs * len(data.train), ends_at)
    # The papers' 5e-4 passes through the momentum, which multiplies it by 1 / (1 - 0.9); Keras
    # takes the decay off the weights beside it. In both it follows the learning rate.
    optimizer = keras.optimizers.SGD(
        schedule, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    if adam:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.05)
    # On CPU, convolutions run fastest under TensorFlow without XLA.
    jit_compile = keras.backend.backend() == "jax"
    model.compile(optimizer, loss, metrics=list(metrics), jit_compile=jit_compile)
    keras.utils.set_random_seed(seed)
    callbacks = [args.progress.training(label), keras.callbacks.TerminateOnNaN(), *callbacks]
    with resumed(model, args, seed, label) as backups:
        if backups is not None:
            model.fit(
                data.train,
                epochs=args.epochs,
                shuffle=False,  # the pipeline does
                verbose=0,
                callbacks=[*callbacks, *backups],
            )


def add_resume(options):
    """The option that `resumed` reads, for examples that train for hours."""
    options.add_argument(
        "--resume", metavar="FOLDER", help="keep trainings there, and go on where a run was stopped"
    )


@contextlib.contextmanager
def resumed(model, args, seed, label):
    """Callbacks that let the training go on; ``None`` if it had ended, and the weights are here.

    With --resume, a training is known by the options of the run, its label and its seed.
    """
    folder = getattr(args, "resume", None)
    if not folder:
        yield []
        return
    own = {k: v for k, v in vars(args).items() if k not in ELSEWHERE}
    key = hashlib.sha256(repr((sorted(own.items()), label, seed)).encode()).hexdigest()[:16]
    final = pathlib.Path(folder) / f"{key}.weights.h5"
    if final.exists():
        model.optimizer.build(model.trainable_variables)  # it is in the file, too
        model.load_weights(final)
        yield None
        return
    yield [AtomicBackup(final.with_suffix(""))]
    with beside(final) as unfinished:
        model.save_weights(unfinished)


class WarmCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate with a linear warm-up, over a tenth of the steps, and a cosine decay.

    The numbers are those of Keras's `CosineDecay`, which has a condition. Weight decay asks for the
    rate once for each variable, and TensorFlow takes long to trace, and to run, that many.
    """

    def __init__(self, rate, steps, ends_at=0.0):
        super().__init__()
        self.rate, self.steps, self.ends_at = rate, steps, ends_at

    def __call__(self, step):
        step, warm = ops.cast(step, "float32"), max(1, self.steps // 10)
        decayed = 0.5 + 0.5 * ops.cos(np.pi * ops.clip((step - warm) / self.steps, 0, 1))
        decayed = self.ends_at + (1 - self.ends_at) * decayed
        return self.rate * ops.minimum(step / warm, decayed)

    def get_config(self):
        return {"rate": self.rate, "steps": self.steps, "ends_at": self.ends_at}


def outputs(model, x):
    """Of a trained model, by calls: to trace a small one takes longer than what it has to do."""
    batches = np.array_split(x, 1 + len(x) // 1000)
    found = [keras.ops.convert_to_numpy(model(batch, training=False)) for batch in batches]
    return np.concatenate(found)


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def deployable(data, network):
    """A plain Keras model from pixels in [0, 1]: normalisation, then the network."""
    # A copy, which leaves behind what the network was compiled with.
    plain = type(network).from_config(network.get_config())
    plain.set_weights(network.get_weights())
    return keras.Sequential([keras.Input(data.shape), data.normalization, plain])


def save(model, args, name):
    with beside(_path(args, name)) as unfinished:
        model.save(unfinished)


def saved(args, name):
    return keras.saving.load_model(_path(args, name))


def _path(args, name):
    return pathlib.Path(args.output) / f"{args.data}_{name.replace(' ', '_')}.keras"


def describe(values, *, digits=1):
    """Mean ± standard deviation (of a sample), with so many digits behind the point."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def summary(frame, rows, columns, *, digits=1):
    """A table of texts, mean ± std over the seeds; ``rows`` and ``columns`` name the keys."""
    order = {key: list(dict.fromkeys(frame[key])) for key in (rows, columns)}
    groups = frame.groupby([rows, columns])["value"]
    cells = groups.apply(lambda values: describe(values.to_numpy(), digits=digits))
    table = cells.unstack(columns).reindex(order[rows])[order[columns]]
    table.columns.name = table.index.name = None
    return table.fillna("")


def summaries(frame, kinds=None, *, digits=1):
    """A table for each kind of metric, where a metric's name is ``"kind: column"``."""
    parts = frame["metric"].str.partition(": ")
    return {
        kind: summary(
            frame[parts[0] == kind].assign(metric=parts[2]), "variant", "metric", digits=digits
        )
        for kind in kinds or dict.fromkeys(parts[0])
    }


def markdown(table):
    lines = ["| " + " | ".join(["", *map(str, table.columns)]) + " |"]
    lines.append("| --- " * (1 + len(table.columns)) + "|")
    lines += [
        "| " + " | ".join([str(index), *map(str, row)]) + " |"
        for index, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(lines)


def figure(rows, columns, size, **kwargs):
    """An empty figure in the examples' style."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **kwargs)


def save_figure(drawing, path):
    with beside(path) as unfinished:
        drawing.savefig(unfinished, dpi=150)


def finish(args, frame, tables, drawing, explanation, *, pictures=(), verdict=""):
    """Print the tables, write the figure, and record both where asked: see `run`."""
    for caption, table in tables.items():
        print(f"\n{caption}\n{table.to_string()}")
    folder = pathlib.Path(args.output)
    _draw_into(folder / f"{slug(args)}.png", drawing)
    if verdict:
        print(f"\n{verdict}")
    print(f"\nFigure and models: {folder}\nTotal time: {frame.attrs['seconds']:.0f} s")
    if args.record:
        page, picture = pathlib.Path(args.record), _recorded(args)
        save_figure(drawing, picture)
        with beside(picture.with_suffix(".csv")) as unfinished:
            frame.to_csv(unfinished, index=False, float_format="%.5g")
        copies = [f"{picture.stem}_{other}.png" for other in pictures]
        for other, copy in zip(pictures, copies, strict=True):
            with beside(page.parent / copy) as unfinished:
                shutil.copy(folder / f"{slug(args)}_{other}.png", unfinished)
        text = _section(args, frame, tables, [picture.name, *copies], explanation, verdict)
        record(page, slug(args), text)


def _recorded(args):
    """The picture of a record; its values lie beside it."""
    return pathlib.Path(args.record).parent / f"results_{slug(args)}.png"


def _draw_into(path, drawing):
    if drawing.get_layout_engine() is None:  # those of lgg.plots have one
        drawing.tight_layout()
    save_figure(drawing, path)


def finish_selection(args, frame, caption, conclusion):
    """Print what --select compared on the validation split, and record it where asked."""
    table = summary(frame, "variant", "metric")
    print(f"\n{caption}\n{table.to_string()}\n\n{conclusion}")
    if args.record:
        title = f"{_title(args)}, how its settings were chosen"
        text = "\n\n".join(
            [
                f"## {title}",
                *_how(args, frame),
                f"**{caption}**",
                markdown(table),
                conclusion,
            ]
        )
        record(pathlib.Path(args.record), f"{slug(args)}_selection", text)


def slug(args):
    """What the files of an example's results are called."""
    return "_".join([args.example, *args.subject]).replace(" ", "_")


def _title(args):
    return f"{args.example.replace('_', ' ').capitalize()}: {', '.join(args.subject)}"


def _section(args, frame, tables, pictures, explanation, verdict):
    parts = [f"## {_title(args)}", *_how(args, frame), explanation]
    parts += [f"![{args.example}, {', '.join(args.subject)}]({picture})" for picture in pictures]
    for caption, table in tables.items():
        parts += [f"**{caption}**", markdown(table)]
    parts += ["\n".join(f"* {line}" for line in verdict.splitlines())] if verdict else []
    parts += [f"[All values, by seed](results_{slug(args)}.csv)"]
    return "\n\n".join(parts)


def _how(args, frame):
    """The command, and on what it ran."""
    command = shlex.join(["python", f"examples/{args.example}.py", *args.argv])
    last = args.seed + args.seeds - 1
    seeds = f"Seeds {args.seed} to {last}; mean ± standard deviation over them."
    if args.seeds == 1:
        seeds = f"Seed {args.seed}."
    minutes = frame.attrs["seconds"] / 60
    run = f"{args.note} {seeds} {machine()} Wall time {minutes:.0f} minutes."
    return f"    {command}", run.strip()


def machine():
    return (
        f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, Keras "
        f"{keras.__version__}, {keras.backend.backend()} backend."
    )


def record(page, key, text):
    """Put a section into a page, in place of the one with the same key."""
    begin, end = f"<!-- begin {key} -->", f"<!-- end {key} -->"
    section = f"{begin}\n\n{text}\n\n{end}"
    old = page.read_text() if page.exists() else "# Recorded results\n"
    before, found, rest = old.partition(begin)
    new = before + section + rest.partition(end)[2] if found else f"{old.rstrip()}\n\n{section}\n"
    with beside(page) as unfinished:
        unfinished.write_text(new)
    print(f"Recorded in {page}")


def arguments(options, argv, *, quick, small="digits"):
    """Parse; ``--quick`` has defaults of its own, on the data that is small.

    The command line is kept for the record.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    _show_defaults(options)
    args = options.parse_args(argv)
    if args.quick:
        options.set_defaults(data=small, seeds=1, **quick)
        args = options.parse_args(argv)
    args.argv, args.progress = argv, Progress()
    args.subject = [args.data]  # of the titles; what else tells two records apart is added to it
    return args


def apart_from_reported(args):
    """With --select, seeds that no table reports, unless others are asked for."""
    if args.select and args.seed == 0:
        args.seed = SELECTION_SEEDS
    return args


def _show_defaults(options):
    """Let ``--help`` say what an option is that is not given."""
    for action in options._actions:
        default = action.default
        words = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
        is_shown = isinstance(words, int | float | str) and not isinstance(words, bool)
        if is_shown and words not in ("", argparse.SUPPRESS):
            shown = f"by default {words}".replace("%", "%%")
            action.help = f"{action.help}; {shown}" if action.help else shown


def best_of_kinds(frame, metric, kinds, *, least):
    """Of each kind of penalty the variant ``"kind, weight w"`` of the least or the largest mean."""
    means = frame[frame["metric"] == metric].groupby("variant", sort=False)["value"].mean()
    of = means.index.str.rpartition(", weight").get_level_values(0)
    groups = [means[of == kind] for kind in kinds if kind in of]
    return "; ".join(group.idxmin() if least else group.idxmax() for group in groups)


def most_robust(frame):
    """The variant of the best mean over all but "clean", of which it costs at most one point.

    The first variant is what the others are compared with.
    """
    means = frame.pivot_table(index="variant", columns="metric", values="value", sort=False)
    return robustness(means, means.iloc[0]).idxmax()


def robustness(means, plain):
    """The mean over all but "clean", of the rows that cost at most a point of it against plain."""
    affordable = means[means["clean"] >= plain["clean"] - 1]
    return affordable.drop(columns="clean").mean(axis=1)


def draw_band(axis, x, frame, metrics, *, color, **style):
    """A line through the means of metrics, and a band of one standard deviation."""
    values = frame.groupby("metric")["value"]
    mean, std = values.mean()[metrics], values.std().fillna(0)[metrics]
    axis.plot(x, mean, color=color, markersize=4, **style)
    axis.fill_between(x, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)


def draw_students(frame, colors, metrics):
    """A figure of students; their teacher is a line in the first panel."""
    drawing = draw_methods(frame, {metric: f"student: {metric}" for metric in metrics}, colors)
    of_teacher = (frame["variant"] == "teacher") & (frame["metric"] == metrics[0])
    teacher, axis = frame.loc[of_teacher, "value"].mean(), drawing.axes[0]
    axis.axvline(teacher, color=BLACK, linestyle="--", linewidth=1)
    where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axis.annotate("teacher", (teacher, 1), (3, 3), **where)
    return drawing


def draw_methods(frame, panels, colors):
    """A figure of methods in rows, as wide as a page: the mean, its spread, and each seed.

    Args:
        frame: As of `run_seeds`; a method may lack some of the metrics.
        panels: Dict from the metrics to the texts below their axes.
        colors: Dict from the methods to their colours.
    """
    drawing, axes = figure(1, len(panels), (7.5, 0.3 * len(colors) + 1), sharey=True)
    for axis, (metric, text) in zip(axes[0], panels.items(), strict=True):
        values = frame[frame["metric"] == metric].groupby("variant")["value"]
        for place, (name, color) in enumerate(colors.items()):
            if name in values.groups:
                own = values.get_group(name).to_numpy()
                spread = np.std(own, ddof=1) if len(own) > 1 else 0
                axis.errorbar(np.mean(own), place, xerr=spread, color=color, marker="o")
                axis.plot(own, np.full(len(own), place + 0.25), ".", color=color, alpha=0.5)
        axis.set(xlabel=text)
        axis.grid(axis="y", linewidth=0.3)
    axes[0][0].set(yticks=range(len(colors)), ylim=(len(colors) - 0.4, -0.6))
    axes[0][0].set_yticklabels(colors)
    return drawing


def draw_point(axis, place, values, color):
    """The mean with its standard deviation, and each seed beside it, where there are several."""
    if len(values) == 1:
        axis.plot(place, *values, "o", color=color)
        return
    std = np.std(values, ddof=1)
    axis.errorbar(place, np.mean(values), std, color=color, marker="o", capsize=4)
    axis.plot(np.full(np.shape(values), place + 0.2), values, ".", color=color, alpha=0.5)


def widen(axis, least):
    """Let the vertical axis span so much at least: next to no difference is to look like none."""
    low, high = axis.get_ylim()
    room = max(0, least - (high - low)) / 2
    axis.set_ylim(low - room, high + room)
