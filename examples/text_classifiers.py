"""Encoders of texts that learn from the labelled texts of one language alone.

Each is a function ``(texts, labels, args, seed) -> encode``; ``encode(texts)`` is an array
``(n, d)``. TF-IDF does not look at the labels. The networks read the first words of a text, and
learn its class with a layer of logits that is not part of the encoder.
"""

import collections
import functools
import string

import common
import keras
import numpy as np
from keras import layers
from text_encoders import tfidf

from keras_lgg.checks import require

LENGTH = 24  # words of a text that a network reads
PADDING, UNKNOWN = 0, 1
FEWEST = 2  # times that a known word occurs
LARGEST = 10_000  # number of words and pairs that are counted
BREAKS = str.maketrans(dict.fromkeys(string.punctuation + "।", " "))


def words(text):
    """What stands between white space and signs; letters alone would break the words of Hindi."""
    return text.lower().translate(BREAKS).split()


def counts(texts, labels, args, seed):
    """TF-IDF of words and of pairs of words, and its principal axes."""
    del labels
    options = {"ngram_range": (1, 2), "max_features": LARGEST}
    return tfidf(texts, args, seed, tokenizer=words, token_pattern=None, **options)


def network(body, epochs, rate, texts, labels, args, seed):
    """Vectors of width --width, from what a body ``(ids, vocabulary) -> (n, c)`` makes of words."""
    ids_of, vocabulary = numbered(texts)
    keras.utils.set_random_seed(seed)
    ids = keras.Input((LENGTH,), dtype="int32")
    features = layers.Dropout(0.3)(body(ids, vocabulary))
    encoder = keras.Model(ids, layers.Dense(args.width)(features))
    logits = [layers.Dropout(0.5), layers.Dense(int(labels.max()) + 1)]
    model = keras.Sequential([encoder, *logits])
    model.compile(
        keras.optimizers.Adam(rate),
        common.cross_entropy(),
        jit_compile=keras.backend.backend() == "jax",
    )
    options = {"batch_size": args.batch_size, "epochs": args.epochs or epochs, "verbose": 0}
    model.fit(ids_of(texts), labels, callbacks=[args.progress], **options)
    return lambda texts: common.outputs(encoder, ids_of(texts))


def convolutions(ids, vocabulary):
    """The largest answers to three words in a row (Kim, EMNLP 2014)."""
    x = layers.Dropout(0.3)(layers.Embedding(vocabulary, 128)(ids))
    x = layers.Conv1D(128, 3, padding="same", activation="relu")(x)
    return layers.GlobalMaxPooling1D()(x)


def recurrent(ids, vocabulary):
    """The largest states of two GRUs, one in each direction."""
    x = layers.Dropout(0.3)(layers.Embedding(vocabulary, 64, mask_zero=True)(ids))
    states = layers.Bidirectional(layers.GRU(64, return_sequences=True))(x)
    # Padding adds nothing new: there, a GRU keeps the state that it has, or starts with zeros.
    return keras.ops.max(states, axis=1)


def transformer(ids, vocabulary, *, width=64, depth=1):
    """The mean of the words after blocks of attention."""
    hub = require("keras_hub", "text").layers
    x = hub.TokenAndPositionEmbedding(vocabulary, LENGTH, width, mask_zero=True)(ids)
    x = layers.Dropout(0.3)(x)
    for i in range(depth):
        x = hub.TransformerEncoder(2 * width, num_heads=2, dropout=0.1, name=f"block{i + 1}")(x)
    return layers.GlobalAveragePooling1D()(x)


def taps(depth):
    """What follows the ReLU of each block.

    The outputs of a block have signs, and the similarities of a sample to others may cancel: its
    degree, by which a graph is normalised, is then next to nothing.
    """
    return [f"block{i + 1}/feedforward_intermediate_dense" for i in range(depth)]


def classifier(vocabulary, classes, **options):
    """From ids to logits; the options are those of `transformer`."""
    ids = keras.Input((LENGTH,), dtype="int32")
    features = layers.Dropout(0.5)(transformer(ids, vocabulary, **options))
    return keras.Model(ids, layers.Dense(classes)(features))


def numbered(texts):
    """A function from texts to ids ``(n, LENGTH)``, and how many ids there are."""
    found = collections.Counter(word for text in texts for word in words(text))
    known = sorted(word for word, times in found.items() if times >= FEWEST)
    places = {word: i for i, word in enumerate(known, start=UNKNOWN + 1)}

    def ids_of(texts):
        ids = np.full((len(texts), LENGTH), PADDING, "int32")
        for row, text in zip(ids, texts, strict=True):
            read = [places.get(word, UNKNOWN) for word in words(text)[:LENGTH]]
            row[: len(read)] = read
        return ids

    return ids_of, len(places) + UNKNOWN + 1


# Epochs and learning rates were chosen by training questions that were held out.
ENCODERS = {
    "TF-IDF": counts,
    "CNN": functools.partial(network, convolutions, 5, 3e-3),
    "GRU": functools.partial(network, recurrent, 5, 3e-3),
    "transformer": functools.partial(network, transformer, 10, 2e-3),
}
WITHOUT_LABELS = ("TF-IDF",)
