"""What the examples that train classifiers of texts share: options, data, training."""

from collections.abc import Callable
from typing import NamedTuple

import common
import keras
import numpy as np
import text_classifiers
import text_data

RATE = 2e-3  # the highest learning rate


class Data(NamedTuple):
    """Texts and their fine classes, to train with and to score on."""

    texts: list[str]
    labels: np.ndarray
    scored: list[str]
    scored_labels: np.ndarray
    ids_of: Callable[[list[str]], np.ndarray]
    vocabulary: int
    classes: int

    @property
    def counts(self):
        """What `text_classifiers.classifier` has to know."""
        return self.vocabulary, self.classes


def arguments(options, argv, *, quick):
    options.set_defaults(data="halves")
    options.add_argument("--language", help="by default the first of the data")
    options.add_argument("--few", type=int, help="training texts at most; by default all")
    options.add_argument(
        "--select", action="store_true", help="compare weights on held-out training texts instead"
    )
    args = common.arguments(options, argv, quick=quick, small="halves")
    known = text_data.languages(args.data)
    args.language = args.language or known[0]
    if args.language not in known:
        options.error(f"--language is one of {list(known)}")
    return args


def prepare(args, seed):
    """The `Data` of one language; with --select, those to score on are training texts, too."""
    texts, train, test = text_data.with_classes(args)
    own, scored = np.array(texts.train[args.language], object), texts.test[args.language]
    labels, scored_labels = train.fine, test.fine
    classes = int(labels.max()) + 1
    if args.select:
        kept, out = text_data.held_out(labels, seed)
        scored, scored_labels = list(own[out]), labels[out]
        own, labels = own[kept], labels[kept]
    few = np.random.default_rng(seed).permutation(len(own))[: args.few]
    own, labels = list(own[few]), labels[few]
    ids_of, vocabulary = text_classifiers.numbered(own)
    return Data(own, labels, scored, scored_labels, ids_of, vocabulary, classes)


def fit(model, data, args, seed, label, *, loss=None, callbacks=()):
    """Adam, with a linear warm-up and cosine decay."""
    steps = args.epochs * -(-len(data.texts) // args.batch_size)
    schedule = common.WarmCosine(RATE, steps)
    model.compile(
        keras.optimizers.Adam(schedule),
        loss or common.cross_entropy(),
        jit_compile=keras.backend.backend() == "jax",
    )
    keras.utils.set_random_seed(seed)
    model.fit(
        data.ids_of(data.texts),
        data.labels,
        batch_size=args.batch_size,
        epochs=args.epochs,
        verbose=0,
        callbacks=[args.progress.training(label), *callbacks],
    )
