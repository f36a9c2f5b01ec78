"""Masks and pooling: no value depends on how far a batch was padded."""

import keras
import numpy as np
import pytest
from autodiff import to_numpy
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 50, (12, 6))
LABELS = np.arange(12) % 3
XE = "sparse_categorical_crossentropy"
POOLS = [None, "mean", "max", "first", "last"]


def embedded(tokens, name="h"):
    h = layers.Embedding(50, 5, mask_zero=True, name=f"{name}_embedding")(tokens)
    h = layers.GRU(6, return_sequences=True, name=name)(h)
    return layers.Dense(4, "tanh", name=f"{name}2")(h)


def masked_network():
    """A mask of Keras, from the embedding on."""
    tokens = keras.Input((None,), dtype="int32")
    h = layers.GlobalAveragePooling1D()(embedded(tokens))
    return keras.Model(tokens, layers.Dense(3, "softmax")(h))


def padded(length, tokens=TOKENS):
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))


def named_network(name):
    """A mask that is an input, in which what is masked is anything."""
    x = keras.Input((None, 5), name="x")
    mask = keras.Input((None,), name=name)
    h = layers.Dense(4, "tanh", name="h")(x)
    h2 = layers.Dense(4, "tanh", name="h2")(h)
    kept = layers.Multiply()([h2, layers.Reshape((-1, 1))(mask)])
    out = layers.Dense(3, "softmax")(layers.GlobalMaxPooling1D()(kept))
    return keras.Model({"x": x, name: mask}, out)


def named_data(name, length):
    x = np.full((12, length, 5), 7.0, "float32")
    x[:, :6] = np.random.default_rng(1).normal(size=(12, 6, 5))
    return {"x": x, name: (np.arange(length) < 6).astype("float32")[None].repeat(12, 0)}


def values_of(model, batches):
    """Of each penalty its value in each batch."""
    model.compile("sgd", XE, jit_compile=False)
    logs = [
        model.evaluate(data, LABELS, batch_size=12, verbose=0, return_dict=True) for data in batches
    ]
    return {p.name: [each[p.name] for each in logs] for p in model.penalties}


def value_of(model, data, name="p"):
    return values_of(model, [data])[name][0]


def by_hand(base, layer, pool):
    """One vector a sample, of what is not padded."""
    x = to_numpy(keras.Model(base.input, base.get_layer(layer).output)(TOKENS))
    if pool is None:
        return x.reshape(12, -1)
    return {"mean": x.mean(axis=1), "max": x.max(axis=1), "first": x[:, 0], "last": x[:, -1]}[pool]


PENALTIES = {
    "gsl": (losses.GraphSmoothness(), "h"),
    "target": (losses.TargetGraph(), "h"),
    "variation": (losses.GraphVariation(), ["h", "h2"]),
    "smoothness": (losses.SmoothnessVariation(num_classes=3), ["h", "h2"]),
}


def test_padding_leaves_a_penalty_where_it_was():
    base = masked_network()
    cases = {f"{name} {pool}": (name, pool) for name in PENALTIES for pool in POOLS}
    penalties = [
        lgg.Penalty(*PENALTIES[name], name=key, pool=pool) for key, (name, pool) in cases.items()
    ]
    found = values_of(lgg.GeometryModel(base, penalties), map(padded, (6, 12, 19)))  # n is 12
    for key, (name, pool) in cases.items():
        loss, taps = PENALTIES[name]
        vectors = (
            [by_hand(base, tap, pool) for tap in taps] if taps != "h" else by_hand(base, taps, pool)
        )
        given = (vectors,) if name == "variation" else (LABELS, vectors)
        np.testing.assert_allclose(found[key], float(loss(*given)), rtol=1e-5, err_msg=key)


class Block(layers.Layer):
    """Its inner layers see what Keras knows no mask of: a sum of tensors has none."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.first, self.second = (layers.Dense(5, "tanh", name=name) for name in ("u", "v"))

    def call(self, x, padding_mask=None):
        return x + self.second(self.first(x + 1.0) + 1.0)


class Blocks(keras.Model):
    """Masked by Keras, or by what it tells its blocks itself, as models of KerasHub do."""

    def __init__(self, masked_by):
        super().__init__()
        self.masked_by = masked_by
        self.embedding = layers.Embedding(50, 5, mask_zero=masked_by == "Keras")
        self.blocks = [Block(name=f"block{i}") for i in (1, 2)]
        self.mean, self.head = layers.GlobalAveragePooling1D(), layers.Dense(3, "softmax")

    def call(self, tokens):
        mask, x = ops.not_equal(tokens, 0), self.embedding(tokens)
        for block in self.blocks:
            x = block(x) if self.masked_by == "Keras" else block(x, padding_mask=mask)
        return self.head(self.mean(x, mask=mask))


@pytest.mark.parametrize("masked_by", ["Keras", "an argument"])
def test_padding_leaves_a_layer_inside_another_where_it_was(masked_by):
    base, taps = Blocks(masked_by), ["block1/u", "block2/v", "block2"]
    base(TOKENS)
    penalties = [
        lgg.Penalty(
            losses.GraphSmoothness(), tap, name=f"{tap.replace('/', ' ')} {pool}", pool=pool
        )
        for tap in taps
        for pool in POOLS
    ]
    found = values_of(lgg.GeometryModel(base, penalties), map(padded, (6, 12)))
    for name, values in found.items():
        np.testing.assert_allclose(values[1], values[0], rtol=1e-5, err_msg=name)
    u = base.blocks[0].first(base.embedding(TOKENS) + 1.0)
    expected = np.sum(to_numpy(losses.graph_smoothness(LABELS, to_numpy(u).mean(axis=1))))
    np.testing.assert_allclose(found["block1 u mean"][0], expected, rtol=1e-5)


class Crossed(layers.Layer):
    """Two sequences, of each a mask of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.own, self.other = layers.Dense(4, name="own"), layers.Dense(4, name="other")

    def call(self, x, others):
        return self.own(x + 1.0) + self.other(others + 1.0)


def test_of_two_masks_none_is_taken():
    x = {name: keras.Input((6,), dtype="int32", name=name) for name in ("x", "others")}
    both = [layers.Embedding(50, 4, mask_zero=True)(tokens) for tokens in x.values()]
    crossed = Crossed(name="crossed")
    out = layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(crossed(*both)))
    base = keras.Model(x, out)
    tokens = TOKENS * (np.arange(6) < 4)
    data = {"x": tokens, "others": TOKENS}
    penalty = lgg.Penalty(losses.GraphSmoothness(), "crossed/other", name="p", pool="mean")
    expected = to_numpy(crossed.other(base.layers[3](TOKENS) + 1.0)).mean(axis=1)
    expected = np.sum(to_numpy(losses.graph_smoothness(LABELS, expected)))
    np.testing.assert_allclose(
        value_of(lgg.GeometryModel(base, [penalty]), data), expected, rtol=1e-5
    )


def test_padding_leaves_a_distillation_where_it_was():
    pairs = [("h", "h"), ("h2", "h2")]
    penalties = [
        lgg.Penalty(loss, pairs, name=f"{loss.name} {pool}", pool=pool)
        for loss in (
            losses.GraphDistillation(),
            losses.RelationalDistance(),
            losses.RelationalAngle(),
            losses.SimilarityPreserving(),
            losses.ProbabilisticTransfer(),
            losses.CorrelationCongruence(),
        )
        for pool in (None, "mean")
    ]
    model = lgg.Distiller(masked_network(), masked_network(), penalties)
    for key, values in values_of(model, map(padded, (6, 12))).items():
        assert values[0] > 0
        np.testing.assert_allclose(values, values[0], rtol=1e-5, err_msg=key)


def test_padding_leaves_keras_distillation_where_it_was():
    loss = keras.distillation.FeatureDistillation(loss="mse")
    model = lgg.Distiller(
        masked_network(), masked_network(), [lgg.Penalty(loss, [("h", "h")], name="p")]
    )
    found = values_of(model, map(padded, (6, 12)))["p"]
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["padding_mask", "attention_mask", "valid"])
def test_an_input_is_the_mask(name):
    given = {"mask": "valid"} if name == "valid" else {}
    base = named_network(name)
    penalties = [
        lgg.Penalty(losses.GraphSmoothness(), "h", name=str(pool), pool=pool, **given)
        for pool in POOLS
    ]
    found = values_of(
        lgg.GeometryModel(base, penalties), [named_data(name, length) for length in (6, 12)]
    )
    for pool in POOLS:
        np.testing.assert_allclose(found[str(pool)][0], found[str(pool)][1], rtol=1e-5)
    h = to_numpy(base.get_layer("h")(named_data(name, 6)["x"])).mean(axis=1)
    expected = np.sum(to_numpy(lgg.losses.graph_smoothness(LABELS, h)))
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-5)


def test_a_mask_that_nothing_reads_is_an_error():
    base = named_network("valid")
    data = named_data("valid", 6)
    head = base.layers[-1].name
    for tap, message in (("h", "finds no input 'missing'"), (head, "would be read by nothing")):
        mask = "missing" if tap == "h" else "valid"
        model = lgg.GeometryModel(base, [lgg.Penalty(losses.GraphSmoothness(), tap, mask=mask)])
        model.compile("sgd", XE)
        with pytest.raises(ValueError, match=message):
            model.fit(data, LABELS, verbose=0)
    with pytest.raises(ValueError, match=r"`pool`.*Expected one of"):
        lgg.Penalty(losses.GraphSmoothness(), "h", pool="average")


def test_the_gradient_does_not_reach_what_is_masked():
    """The weights that one step gives are those of a batch without padding."""
    steps = []
    for length in (6, 12):
        keras.utils.set_random_seed(0)
        penalty = lgg.Penalty(losses.GraphSmoothness(), "h2", weight=0.1, pool="mean")
        model = lgg.GeometryModel(masked_network(), [penalty])
        model.compile(keras.optimizers.SGD(0.1), XE)
        model.fit(padded(length), LABELS, batch_size=12, verbose=0)
        steps.append(model.base.get_weights())
    for a, b in zip(*steps, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pool", [None, "mean"])
def test_a_layer_reads_the_mask_of_keras(pool):
    tokens = keras.Input((None,), dtype="int32")
    h = lgg.layers.GeometryPenalty(losses.GraphVariation(), weight=1.0, pool=pool)(
        [embedded(tokens, "a"), embedded(tokens, "b")]
    )
    model = keras.Model(tokens, layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(h)))
    model.compile("sgd", XE)
    found = [
        model.evaluate(padded(length), LABELS, batch_size=12, verbose=0, return_dict=True)["loss"]
        for length in (6, 12)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model)).layers[
        -3
    ].pool == (pool)


def test_a_compiled_loss_on_masked_outputs():
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, embedded(tokens))
    model.compile("sgd", losses.GraphSmoothness())
    expected = np.sum(
        to_numpy(lgg.losses.graph_smoothness(LABELS, ops.convert_to_tensor(model(TOKENS))))
    )
    for length in (6, 12):
        found = model.evaluate(padded(length), LABELS, batch_size=12, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_monitors_and_plots_respect_masks():
    base, taps = masked_network(), ["h", "h2"]
    model = unchanging(base)
    for pool in POOLS:
        vectors = [by_hand(base, tap, pool) for tap in taps]
        found = []
        for length in (6, 12):
            seen = lgg.plots.representations(base, padded(length), taps, pool=pool)
            for tap, x in zip(taps, vectors, strict=True):
                np.testing.assert_allclose(seen[tap].reshape(12, -1)[:, : x.shape[1]], x, atol=1e-5)
                assert not seen[tap].reshape(12, -1)[:, x.shape[1] :].any()
            monitor = lgg.callbacks.GeometryMonitor(padded(length), LABELS, taps=taps, pool=pool)
            logs = trained(model, length, monitor)
            for tap, x in zip(taps, vectors, strict=True):
                value = lgg.graphs.label_smoothness(x, LABELS, relative=True)
                np.testing.assert_allclose(logs[f"{tap}/label_smoothness"], float(value), rtol=1e-4)
            found.append({k: v for k, v in logs.items() if "/" in k})
        assert len(found[0]) == 9
        for name, values in found[0].items():
            np.testing.assert_allclose(found[1][name], values, rtol=1e-3, err_msg=f"{name} {pool}")


def unchanging(base):
    """A model that an epoch does not change."""
    model = lgg.GeometryModel(base, [lgg.Penalty(losses.GraphSmoothness(), "h", weight=0.0)])
    model.compile(keras.optimizers.SGD(0.0), XE)
    return model


def trained(model, length, callback):
    """The logs of an epoch."""
    return model.fit(padded(length), LABELS, batch_size=12, verbose=0, callbacks=[callback]).history


@pytest.mark.parametrize("pool", [None, "mean"])
def test_figures_respect_masks(pool, monkeypatch, tmp_path):
    """Nodes, edges and curves are where they are without padding."""
    base, taps = masked_network(), ["h", "h2"]
    model = unchanging(base)
    figures, draw = [], lgg.plots.layer_graphs

    def drawn(*args, **options):
        figures.append(draw(*args, **options))
        return figures[-1]

    monkeypatch.setattr(lgg.plots, "layer_graphs", drawn)
    for length in (6, 12):
        snapshot = lgg.callbacks.GraphSnapshot(
            padded(length), LABELS, taps=taps, pool=pool, folder=tmp_path, every=2, layout="pca"
        )
        trained(model, length, snapshot)
        seen = lgg.plots.representations(base, padded(length), taps, pool=pool)
        values = {"net": [float(lgg.graphs.label_smoothness(x, LABELS)) for x in seen.values()]}
        figures.append(lgg.plots.smoothness(values, taps))
    plain, longer = ([artists(figure) for figure in figures[i : i + 2]] for i in (0, 2))
    vectors = {tap: by_hand(base, tap, pool) for tap in taps}
    expected = artists(draw(vectors, LABELS, title="epoch 0", layout="pca"))
    assert len(expected) > 6
    for each in (plain[0], longer[0]):
        assert_same(each, expected)
    assert_same(longer[1], plain[1])
    smooth = [float(lgg.graphs.label_smoothness(x, LABELS)) for x in vectors.values()]
    np.testing.assert_allclose(figures[3].axes[0].lines[0].get_ydata(), smooth, rtol=1e-4)


def artists(figure):
    """The places of what is drawn: nodes, edges, curves."""
    drawn = [artist for axis in figure.axes for artist in (*axis.collections, *axis.lines)]
    return [
        np.concatenate(each.get_segments())
        if hasattr(each, "get_segments")
        else np.asarray(each.get_offsets() if hasattr(each, "get_offsets") else each.get_xydata())
        for each in drawn
    ]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pool", [None, "mean", "last"])
def test_a_cache_keeps_what_is_pooled(pool):
    teacher, student = masked_network(), masked_network()
    given = [
        lgg.Penalty(losses.GraphDistillation(), [("h", "h"), ("h2", "h2")], name="p", pool=pool),
        lgg.Penalty(losses.RelationalDistance(), [("h", "h2")], name="q", pool="max"),
    ]
    in_memory = lgg.Distiller(teacher, student, given)
    expected = [value_of(in_memory, padded(9), name) for name in ("p", "q")]
    cached = lgg.teacher_cache(teacher, given, (padded(9), LABELS))
    model = lgg.Distiller(None, student, given)
    model.compile("sgd", XE)
    logs = model.evaluate(cached.batch(12), verbose=0, return_dict=True)
    np.testing.assert_allclose([logs["p"], logs["q"]], expected, rtol=1e-4)
    other = lgg.Penalty(losses.GraphDistillation(), [("h", "h")], pool="first")
    model = lgg.Distiller(None, student, other)
    model.compile("sgd", XE)
    with pytest.raises(ValueError, match=r"does not hold what the penalties need.*first"):
        model.evaluate(cached.batch(12), verbose=0)
