"""Tokens that are missing and letters that changed places, and what takes such inputs."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_lgg import robustness
from keras_lgg.robustness import (
    FGSM,
    DroppedTokens,
    DroppedUnits,
    GaussianNoise,
    QuantizedWeights,
    Typos,
    evaluate,
)

pytest.importorskip("pandas", reason="the tables need pandas")

WORDS = ["[pad]", "[mask]", "good", "bad", "film", "plot", "very", "not"]
N, CLASSES = 30, 3


@pytest.fixture(autouse=True, scope="module")
def cleared():
    yield
    keras.backend.clear_session()


def one(perturbation, inputs, seed=0):
    """What a perturbation of one severity makes."""
    [(changed, _)] = perturbation.data(inputs, np.zeros(N, int), seed=seed)
    return changed


def token_ids(length=6, n=N, pad=2):
    """Ids of different numbers of tokens, the rest of which is padding."""
    ids = np.random.default_rng(0).integers(2, len(WORDS), (n, length))
    lengths = np.arange(n) % (length - pad) + 1 + pad
    return np.where(np.arange(length) < lengths[:, None], ids, 0)


def texts():
    return [" ".join(WORDS[i] for i in row if i) for row in token_ids()]


def tokenizer(given, length=6):
    """By hand, to a dict of ids and a mask."""
    ids = np.zeros((len(given), length), "int32")
    for row, text in zip(ids, given, strict=True):
        words = [WORDS.index(word) for word in text.split()]
        row[: len(words)] = words
    return {"token_ids": ids, "padding_mask": ids > 0}


def of_ids():
    """A classifier of ids alone, for which the order counts."""
    ids = keras.Input((None,), dtype="int32")
    h = layers.Embedding(len(WORDS), 4, name="embed")(ids)
    h = layers.GlobalMaxPooling1D()(layers.Conv1D(8, 2, padding="same", name="conv")(h))
    return with_weights(keras.Model(ids, layers.Dense(CLASSES)(h)))


def of_both():
    """A classifier of ids and a mask."""
    given = {
        "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
    }
    h = layers.Embedding(len(WORDS), 4, name="embed")(given["token_ids"])
    h = layers.GlobalAveragePooling1D()(h, mask=given["padding_mask"])
    return with_weights(keras.Model(given, layers.Dense(CLASSES)(layers.Dense(5, name="h")(h))))


def with_weights(model):
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0, 1, w.shape) for w in model.get_weights()])
    return model


def labelled(model, inputs):
    """The inputs, with labels as the model sees them."""
    outputs = model(inputs)
    return inputs, np.argmax(ops.convert_to_numpy(outputs), axis=-1)


def run(*args, **kwargs):
    return evaluate(*args, progress=False, **kwargs)


# Dropped tokens


@pytest.mark.once
def test_the_rest_moves_up():
    ids = token_ids()
    changed = one(DroppedTokens(rates=(0.4,)), ids)
    assert changed.dtype == ids.dtype
    for before, after in zip(ids, changed, strict=True):
        before, rest = before[before > 0], after[after > 0]
        np.testing.assert_array_equal(after[: len(rest)], rest)  # no gap
        assert 1 <= len(rest) <= len(before)
        left = iter(before.tolist())
        assert all(token in left for token in rest.tolist())  # in their order
    assert 0.3 < 1 - np.sum(changed > 0) / np.sum(ids > 0) < 0.5
    np.testing.assert_array_equal(ids, token_ids())  # what was given stays
    alike = one(DroppedTokens(rates=(0.4,)), np.tile(np.arange(2, 8), (N, 1)))
    assert len(np.unique(alike, axis=0)) > 10  # each sample has its own draws


@pytest.mark.once
def test_another_token_takes_the_place():
    ids = token_ids()
    changed = one(DroppedTokens(rates=(0.4,), replacement=1), ids)
    is_gone = changed != ids
    assert np.all(changed[is_gone] == 1)
    assert np.all(ids[is_gone] != 0)
    assert 0.3 < np.sum(is_gone) / np.sum(ids > 0) < 0.5
    # Which tokens go does not depend on what becomes of them.
    moved = one(DroppedTokens(rates=(0.4,)), ids)
    for row, gone, rest in zip(ids, is_gone, moved, strict=True):
        expected = row[(row > 0) & ~gone]
        if len(expected):
            np.testing.assert_array_equal(rest[rest > 0], expected)


@pytest.mark.once
def test_none_and_all():
    ids = token_ids()
    np.testing.assert_array_equal(one(DroppedTokens(rates=(0,)), ids), ids)
    alone = one(DroppedTokens(rates=(1,)), ids)
    np.testing.assert_array_equal((alone > 0).sum(axis=1), 1)
    np.testing.assert_array_equal(
        one(DroppedTokens(rates=(1,), replacement=1), ids), (ids > 0).astype(int)
    )
    kept = one(DroppedTokens(rates=(1,), keep=(3, 5)), ids)
    for before, after in zip(ids, kept, strict=True):
        stay = before[np.isin(before, (3, 5))]
        if len(stay):
            np.testing.assert_array_equal(after[: len(stay)], stay)
            assert not after[len(stay) :].any()
    empty = np.zeros((N, 4), int)
    np.testing.assert_array_equal(one(DroppedTokens(rates=(1,)), empty), empty)


@pytest.mark.once
def test_padding_changes_no_draw():
    ids, dropped = np.pad(token_ids(), ((0, 0), (0, 1))), DroppedTokens(rates=(0.5,))
    short = one(dropped, ids)
    np.testing.assert_array_equal(one(dropped, np.pad(ids, ((0, 0), (0, 5))))[:, :7], short)
    # Padding in front stays in front.
    turned = np.stack([np.roll(row, np.sum(row == 0)) for row in ids])
    expected = np.stack([np.roll(row, np.sum(row == 0)) for row in short])
    np.testing.assert_array_equal(one(dropped, turned), expected)
    other = one(DroppedTokens(rates=(0.5,), padding=9), np.where(ids, ids, 9))
    np.testing.assert_array_equal(other, np.where(short, short, 9))


@pytest.mark.once
def test_masks_and_segments_move_along():
    ids = token_ids() - 2  # id 0 is a word: the mask alone says what padding is
    ids = np.maximum(ids, 0)
    mask = (token_ids() > 0).astype("int32")
    segments = mask * (np.arange(6) > 1) * ids
    inputs = {"segments": segments, "token_ids": ids, "padding_mask": mask, "more": np.ones((N, 2))}
    changed = one(DroppedTokens(rates=(0.5,)), inputs)
    assert list(changed) == list(inputs)
    assert changed["more"] is inputs["more"]
    plain = one(DroppedTokens(rates=(0.5,), padding=9), np.where(mask, ids, 9))
    np.testing.assert_array_equal(changed["padding_mask"], (plain != 9).astype(int))
    np.testing.assert_array_equal(changed["token_ids"], np.where(plain == 9, 0, plain))
    # A segment is where its id is: here it is the id, but for the first two tokens.
    for i in range(N):
        gone = sorted(set(np.flatnonzero(mask[i])))
        rest = changed["padding_mask"][i].sum()
        assert rest <= len(gone)
        same = np.isin(changed["segments"][i], (0, *changed["token_ids"][i]))
        assert same.all()
        assert not changed["segments"][i, rest:].any()
    # With a replacement the mask stays, as the token does.
    masked = one(DroppedTokens(rates=(0.5,), replacement=1), inputs)
    np.testing.assert_array_equal(masked["padding_mask"], mask)
    np.testing.assert_array_equal(masked["segments"], segments)
    listed = one(DroppedTokens(rates=(0.5,), padding=9, key=1), [mask, np.where(mask, ids, 9)])
    np.testing.assert_array_equal(listed[1], plain)
    np.testing.assert_array_equal(listed[0], (plain != 9).astype(int))
    names = {"decoder_token_ids": ids, "decoder_padding_mask": mask, "padding_mask": 0 * mask}
    decoded = one(DroppedTokens(rates=(0.5,), key="decoder_token_ids"), names)
    np.testing.assert_array_equal(decoded["decoder_token_ids"], changed["token_ids"])


@pytest.mark.once
def test_words_are_dropped_as_ids_are():
    given = np.array(texts(), object)
    for options, ids_options in (({}, {}), ({"replacement": "[mask]"}, {"replacement": 1})):
        changed = one(DroppedTokens(rates=(0.4,), **options), given)
        ids = one(DroppedTokens(rates=(0.4,), **ids_options), token_ids())
        np.testing.assert_array_equal(tokenizer(changed)["token_ids"], ids)
    kept = one(DroppedTokens(rates=(1,), keep=["film"]), given)
    for before, after in zip(given, kept, strict=True):
        films = before.split().count("film")
        assert after.split() == ["film"] * films or (not films and len(after.split()) == 1)
    spaced = np.array(["  two   words\n"] * N, object)
    assert one(DroppedTokens(rates=(0,)), spaced)[0] == "  two   words\n"


# Typos


@pytest.mark.once
def test_typos_are_swaps_of_two_letters():
    given = np.array(["Which  colour, is (the) sky2night? 1234 aaa x"] * N, object)
    changed = one(Typos(rates=(1,)), given)
    assert len(set(changed)) > 10  # each text has its own
    for text in changed:
        assert text.startswith(("W", "h"))
        assert text.endswith(" 1234 aaa x")  # nothing here that could be swapped
        assert text[7 if text[5] != " " else 5 :].count("  ") <= 1
        for before, after in zip(given[0].split()[:5], text.split()[:5], strict=True):
            [i, j] = [k for k in range(len(before)) if before[k] != after[k]]
            assert j == i + 1
            assert (before[i], before[j]) == (after[j], after[i])
            assert before[i : j + 1].isalpha()
    assert np.all(one(Typos(rates=(0,)), given) == given)
    some = one(Typos(rates=(0.5,)), given)
    words = [a != b for text in some for a, b in zip(text.split(), given[0].split(), strict=True)]
    assert 0.35 < np.sum(words) / (5 * N) < 0.65


@pytest.mark.once
def test_marks_stay_with_their_letter():
    given = np.array(["कि" + "ताब", "e\u0301a"] * (N // 2), object)
    changed = one(Typos(rates=(1,)), given)
    assert set(changed[::2]) == {"ता" + "किब", "कि" + "बता"}
    assert set(changed[1::2]) == {"ae\u0301"}


@pytest.mark.once
@pytest.mark.parametrize(
    ("perturbation", "inputs"),
    [
        (DroppedTokens(rates=(0.3, 0.6)), token_ids()),
        (DroppedTokens(rates=(0.3, 0.6)), np.array(texts(), object)),
        (Typos(rates=(0.3, 0.6)), np.array(texts(), object)),
    ],
)
def test_a_sample_has_its_own_draws(perturbation, inputs):
    labels = np.zeros(N, int)

    def made(n=N, seed=0, rates=(0.3, 0.6)):
        each = type(perturbation)(rates=rates)
        return dict(
            zip(rates, (x for x, _ in each.data(inputs[:n], labels[:n], seed=seed)), strict=True)
        )

    first = made()
    for other in (made(rates=(0.6, 0.3)), made(n=7)):  # neither order nor number
        for rate, x in other.items():
            np.testing.assert_array_equal(x, first[rate][: len(x)])
    assert np.any(first[0.3] != first[0.6])
    assert np.any(made(seed=1)[0.3] != first[0.3])


# In `evaluate`


def test_ids_of_a_model_of_one_input():
    model = of_ids()
    ids, labels = labelled(model, token_ids())
    ways = [
        DroppedTokens(rates=(0, 0.6)),
        DroppedUnits(["conv"], rates=(0, 0.9)),
        QuantizedWeights(bits=(12, 1)),
    ]
    table = run(model, (ids, labels), ways)
    found = table["accuracy"].to_numpy()
    assert found[:2].tolist() == [1, 1]  # ids are not scaled
    dropped = one(DroppedTokens(rates=(0.6,)), ids)
    assert found[2] == np.mean(labelled(model, dropped)[1] == labels) < 1
    assert found[3] == 1
    assert found[4] < 1
    assert found[6] < 1
    again = run(model, (ids.astype("int32"), labels), ways, batch_size=7)
    assert again.equals(table)


def test_a_dict_of_inputs_and_texts_in_front_of_a_tokenizer():
    model = of_both()
    inputs, labels = labelled(model, tokenizer(texts()))
    ways = [
        DroppedTokens(rates=(0.5,)),
        DroppedUnits(["h"], rates=(0, 0.8)),
        QuantizedWeights(bits=(1,)),
    ]
    table = run(model, (inputs, labels), ways, batch_size=16)
    assert table["accuracy"].tolist()[0] == table["accuracy"].tolist()[2] == 1
    dropped = labelled(model, one(ways[0], inputs))[1]
    assert table["accuracy"][1] == np.mean(dropped == labels) < 1
    assert table["accuracy"][3] < 1
    by_texts = run(model, (texts(), labels), [*ways, Typos(rates=(0,))], tokenizer=tokenizer)
    assert by_texts[:5].equals(table)
    assert by_texts["accuracy"][5] == 1
    in_bytes = np.array([text.encode() for text in texts()])
    assert run(model, (in_bytes, labels), ways, tokenizer=tokenizer).equals(table)


def test_two_images():
    a, b = keras.Input((4, 4, 1)), keras.Input((4, 4, 1))
    flat = layers.Flatten()(layers.Concatenate(name="both")([a, b]))
    model = with_weights(keras.Model([a, b], layers.Dense(CLASSES)(flat)))
    left, right = np.random.default_rng(0).normal(size=(2, N, 4, 4, 1)).astype("float32")
    labels = np.argmax(ops.convert_to_numpy(model([left, right])), axis=-1)
    found = run(model, ([left, right], labels), [DroppedUnits(["both"], rates=(0, 0.9))])
    assert found["accuracy"].tolist()[:2] == [1, 1]
    swapped = run(model, ((right, left), labels), [QuantizedWeights(bits=(16,))])
    expected = np.argmax(ops.convert_to_numpy(model([right, left])), axis=-1) == labels
    assert swapped["accuracy"][0] == np.mean(expected) < 1


class Fixed(robustness.DataPerturbation):
    name, severities, takes = "fixed", (1,), ("ids", "several")

    def data(self, inputs, labels, *, seed):
        yield inputs, labels


class Anything(keras.Model):
    """A classifier of whatever comes."""

    def __init__(self):
        super().__init__()
        self.built = True

    def call(self, x, training=False):
        return ops.zeros((ops.shape(keras.tree.flatten(x)[0])[0], CLASSES))


def images_in_a_list(n=N):
    return list(np.random.default_rng(0).random((n, 4, 4, 1)))


@pytest.mark.parametrize(
    ("inputs", "ways", "options", "message"),
    [
        (token_ids(), [GaussianNoise()], {}, "take token ids.*'Gaussian noise', of images"),
        (token_ids(), [FGSM(epsilons=(1,))], {}, "take token ids.*'FGSM', of images"),
        (token_ids(), [Typos()], {}, "take token ids.*'typos', of texts"),
        (texts(), [Fixed()], {"tokenizer": tokenizer}, "take texts.*of token ids or several"),
        (tokenizer(texts()), [GaussianNoise()], {}, r"several inputs \(a dict or a list\)"),
        (images_in_a_list(), [DroppedTokens()], {}, "take images.*'dropped tokens'"),
        (texts(), [Typos()], {}, "`tokenizer`.*Received: tokenizer=None, and texts"),
        (token_ids(), [Fixed()], {"tokenizer": tokenizer}, "`tokenizer`.*and token ids as data"),
        (texts(), [Typos()], {"tokenizer": lambda t: [[1], [1, 2]] * 15}, "`tokenizer`"),
        (texts(), [Typos()], {"tokenizer": lambda t: np.zeros((2, 3))}, r"\[2\] rows of 30 texts"),
        (texts(), [DroppedTokens(replacement=1)], {"tokenizer": tokenizer}, "`replacement`.*words"),
        (token_ids(), [DroppedTokens(replacement="a")], {}, "`replacement`.*ids"),
        (token_ids(), [DroppedTokens(keep=("a",))], {}, "`keep`.*ids"),
        ({"x": token_ids()}, [DroppedTokens()], {}, r"`key`.*one of \['x'\].*'token_ids'"),
        (
            {"token_ids": token_ids() / 2},
            [DroppedTokens()],
            {},
            "`key`.*integers of shape.*of float32",
        ),
        ({"token_ids": token_ids(n=4)}, [Fixed()], {}, r"of shape \(4, 6\) and 30 labels"),
        ({"x": token_ids().astype("uint8")}, [Fixed()], {}, "an input of uint8"),
        (token_ids().astype("uint8"), [QuantizedWeights()], {}, "token ids of int32, as the model"),
        (token_ids() / 100, [QuantizedWeights()], {}, "token ids of int32, as the model"),
        (texts()[:3], [Typos()], {"tokenizer": tokenizer}, "texts of shape"),
        ([*texts()[1:], 3], [Typos()], {"tokenizer": tokenizer}, "texts of shape.*int, str"),
    ],
)
def test_what_does_not_fit_is_refused(inputs, ways, options, message):
    model = of_ids() if isinstance(inputs, np.ndarray) else Anything()
    with pytest.raises(ValueError, match=f"(?s)Invalid value for argument.*{message}|{message}"):
        run(model, (inputs, np.arange(N) % 3), ways, **options)


def test_ids_of_another_tokenizer():
    """Keras gives zeros, NaN or an error for them, by the backend."""
    labels, ways = np.arange(N) % 3, [DroppedTokens()]
    with pytest.raises(
        ValueError, match=r"(?s)ids in data are beyond.*\[0, 8\).*Received: ids from"
    ):
        run(of_ids(), (token_ids() + 1, labels), ways)

    def others(given):
        return tokenizer(given)["token_ids"] + 1

    with pytest.raises(ValueError, match=r"ids in tokenizer\(texts\) are beyond"):
        run({"model": of_ids()}, (texts(), labels), [Typos()], tokenizer=others)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DroppedTokens(rates=(1.5,)), "numbers from 0 to 1"),
        (lambda: DroppedTokens(replacement=-1), "`replacement`"),
        (lambda: DroppedTokens(replacement=" "), "`replacement`"),
        (lambda: DroppedTokens(replacement=True), "`replacement`"),
        (lambda: DroppedTokens(padding="0"), "`padding`"),
        (lambda: DroppedTokens(keep=(1.5,)), "`keep`"),
        (lambda: DroppedTokens(key=None), "`key`"),
        (lambda: Typos(rates=()), "numbers from 0 to 1"),
    ],
)
@pytest.mark.once
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
