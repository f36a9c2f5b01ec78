"""Encoders of texts that learn from the texts of one language alone.

Each is a function ``(texts, args, seed) -> encode``; ``encode(texts)`` is an array ``(n, d)``.
"""

import warnings

import common
import keras
import numpy as np
from keras import layers

from keras_lgg.checks import require

# KerasHub's, of a mask that its embedding of positions has no use for.
warnings.filterwarnings("ignore", "Layer 'position_embedding'", UserWarning)

LENGTH, WIDTH = 32, 128  # tokens of a text, and features, of the transformer
DROPPED = 0.3  # share of the tokens that it is not shown
RATE = 2e-3
SPECIAL = ["[PAD]", "[UNK]"]


def tfidf(texts, args, seed, **options):
    """Counts of words, weighted by rarity, and projected onto their principal axes.

    The options are those of scikit-learn's ``TfidfVectorizer``.
    """
    text = require("sklearn.feature_extraction.text", "text")
    decomposition = require("sklearn.decomposition", "text")
    counts = text.TfidfVectorizer(sublinear_tf=True, min_df=2, **options)
    axes = decomposition.TruncatedSVD(args.width, random_state=seed)
    axes.fit(counts.fit_transform(texts))
    return lambda texts: axes.transform(counts.transform(texts))


def transformer(texts, args, seed):
    """Word pieces and two transformer blocks, trained to tell what a text is about.

    From a text without some of its tokens, its vector is to predict all of them, the more so the
    rarer they are: a linear layer of logits does, which is no part of the encoder. This is the bag
    of words of Le and Mikolov ("Distributed representations of sentences and documents", ICML
    2014), with an encoder in place of a table of vectors.
    """
    hub = require("keras_hub", "text")
    keras.utils.set_random_seed(seed)
    vocabulary = hub.tokenizers.compute_word_piece_vocabulary(
        _dataset(texts),
        vocabulary_size=args.vocabulary,
        lowercase=True,
        strip_accents=False,
        reserved_tokens=SPECIAL,
    )
    tokenizer = hub.tokenizers.WordPieceTokenizer(
        vocabulary, sequence_length=LENGTH, lowercase=True
    )
    encoder = _network(hub, len(vocabulary))
    model = keras.Sequential([encoder, layers.Dense(len(vocabulary))])
    ids = np.asarray(tokenizer(texts))
    rarity = _rarity(ids, len(vocabulary))
    size = min(args.batch_size, len(ids))
    steps = args.epochs * (len(ids) // size)
    schedule = common.WarmCosine(RATE, steps)
    model.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=keras.backend.backend() == "jax",
    )
    rng = np.random.default_rng(seed)
    progress = keras.callbacks.CallbackList([args.progress], model=model, epochs=args.epochs)
    progress.on_train_begin()
    for epoch in range(args.epochs):
        order = rng.permutation(len(ids))
        batches = [ids[order[i : i + size]] for i in range(0, len(ids) - size + 1, size)]
        losses = [
            float(model.train_on_batch(_view(batch, rng), _shares(batch, rarity)))
            for batch in batches
        ]
        progress.on_epoch_end(epoch, {"loss": np.mean(losses)})
    progress.on_train_end()
    return lambda texts: common.outputs(encoder, np.asarray(tokenizer(texts)))


ENCODERS = {"TF-IDF": tfidf, "transformer": transformer}


def _network(hub, vocabulary):
    ids = keras.Input((LENGTH,), dtype="int32")
    x = hub.layers.TokenAndPositionEmbedding(vocabulary, LENGTH, WIDTH, mask_zero=True)(ids)
    for _ in range(2):
        x = hub.layers.TransformerEncoder(2 * WIDTH, num_heads=4, dropout=0.1)(x)
    return keras.Model(ids, layers.GlobalAveragePooling1D()(x))


def _rarity(ids, vocabulary):
    """The logarithm of how many texts there are to one with a token; 0 for those that are none."""
    holding = np.zeros(vocabulary)
    for text in ids:
        holding[np.unique(text)] += 1
    rarity = np.log(len(ids) / np.maximum(holding, 1))
    rarity[: len(SPECIAL)] = 0
    return rarity


def _shares(ids, rarity):
    """What is to be predicted: of each text, the tokens that it holds, weighed; the sum is 1."""
    held = np.zeros((len(ids), len(rarity)), "float32")
    np.put_along_axis(held, ids, rarity[ids].astype("float32"), axis=1)
    return held / np.maximum(held.sum(axis=1, keepdims=True), 1e-9)


def _view(ids, rng):
    """Texts without some of their tokens, which padding, the id 0, stands for."""
    dropped = np.where(rng.random(ids.shape) < DROPPED, 0, ids)
    return np.where(dropped.any(axis=1, keepdims=True), dropped, ids)


def _dataset(texts):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(texts).batch(1000)
