"""Encoders of texts that learn from the texts of one language alone.

Each is a function ``(texts, args, seed) -> encode``; ``encode(texts)`` is an array ``(n, d)``.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_lgg.checks import require

LENGTH = 32  # tokens of a text, for the transformer
DROPPED = 0.3  # share of the tokens that each of its two views lacks
TEMPERATURE = 0.05


def tfidf(texts, args, seed, **options):
    """Counts of words, weighed by how rare they are, and projected to their principal axes.

    The options are those of scikit-learn's ``TfidfVectorizer``.
    """
    text = require("sklearn.feature_extraction.text", "text")
    decomposition = require("sklearn.decomposition", "text")
    counts = text.TfidfVectorizer(sublinear_tf=True, min_df=2, **options)
    axes = decomposition.TruncatedSVD(args.width, random_state=seed)
    axes.fit(counts.fit_transform(texts))
    return lambda texts: axes.transform(counts.transform(texts))


def transformer(texts, args, seed):
    """Word pieces and two transformer blocks, trained to tell its texts apart.

    Two views of a text, each without some of its tokens, are to be nearest to one another among
    all of the batch (Gao et al., "SimCSE", EMNLP 2021, with words in place of units dropped).
    """
    hub = require("keras_hub", "text")
    keras.utils.set_random_seed(seed)
    vocabulary = hub.tokenizers.compute_word_piece_vocabulary(
        _dataset(texts),
        vocabulary_size=args.vocabulary,
        lowercase=True,
        strip_accents=False,
        reserved_tokens=["[PAD]", "[UNK]"],
    )
    tokenizer = hub.tokenizers.WordPieceTokenizer(
        vocabulary, sequence_length=LENGTH, lowercase=True
    )
    encoder = _network(hub, len(vocabulary), args.width)
    ids = np.asarray(tokenizer(texts))
    first, second = keras.Input((LENGTH,), dtype="int32"), keras.Input((LENGTH,), dtype="int32")
    pairs = _Similarities()([encoder(first), encoder(second)])
    model = keras.Model([first, second], pairs)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=keras.backend.backend() == "jax",
    )
    rng = np.random.default_rng(seed)
    size = min(args.batch_size, len(ids))
    places = np.arange(size)
    for epoch in range(args.epochs):
        order = rng.permutation(len(ids))
        batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        losses = [
            float(model.train_on_batch([_view(ids[batch], rng) for _ in range(2)], places))
            for batch in batches
        ]
        print(f"  epoch {epoch + 1}/{args.epochs}  loss {np.mean(losses[-20:]):.3f}", flush=True)
    return lambda texts: encoder.predict(np.asarray(tokenizer(texts)), batch_size=256, verbose=0)


ENCODERS = {"TF-IDF": tfidf, "transformer": transformer}


class _Similarities(layers.Layer):
    """Cosines of all pairs of two batches, as logits."""

    def call(self, inputs):
        a, b = (ops.normalize(x, axis=-1) for x in inputs)
        return ops.matmul(a, ops.transpose(b)) / TEMPERATURE


def _network(hub, vocabulary, width):
    ids = keras.Input((LENGTH,), dtype="int32")
    x = hub.layers.TokenAndPositionEmbedding(vocabulary, LENGTH, 128, mask_zero=True)(ids)
    for _ in range(2):
        x = hub.layers.TransformerEncoder(256, num_heads=4, dropout=0.1)(x)
    return keras.Model(ids, layers.Dense(width)(layers.GlobalAveragePooling1D()(x)))


def _view(ids, rng):
    """Texts without some of their tokens; padding, the id 0, takes their place."""
    dropped = np.where(rng.random(ids.shape) < DROPPED, 0, ids)
    return np.where(dropped.any(axis=1, keepdims=True), dropped, ids)


def _dataset(texts):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(texts).batch(1000)
