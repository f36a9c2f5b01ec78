"""Texts with classes, their encoders, and heads that are exchanged: on small cases."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the examples need the extra examples")
pytest.importorskip("sklearn", reason="the examples need the extra text")

import cross_lingual_classification as example
import pandas as pd
import text_classifiers
import text_data
from progress import Progress

HEADER = "\t".join(text_data.COLUMNS)
LINES = [
    'NUM\tNUM:date\tWhen was " he " born ?\tवह कब पैदा हुआ?',
    "LOC\tLOC:city\tWhere ?\tकहाँ?",
    "NUM\tNUM:count\tHow many ?\tकितने?",
]


def write(folder, name, lines):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.tsv").write_text("\n".join([*lines, ""]), "utf-8")


def read(tmp_path):
    return text_data.with_classes(SimpleNamespace(data="trec", data_dir=str(tmp_path)))


@pytest.mark.once
class TestQuestions:
    def test_by_hand(self, tmp_path):
        write(tmp_path / "trec", "train", [HEADER, *LINES])
        write(tmp_path / "trec", "test", [HEADER, *LINES[1:]])
        texts, train, test = read(tmp_path)
        assert texts.train["English"] == ['When was " he " born ?', "Where ?", "How many ?"]
        assert texts.test["Hindi"] == ["कहाँ?", "कितने?"]
        assert [part.tolist() for part in train] == [[1, 0, 1], [2, 0, 1]]
        assert [part.tolist() for part in test] == [[0, 1], [0, 1]]
        args = SimpleNamespace(data="trec", data_dir=str(tmp_path))
        assert text_data.load(args) == texts, "for retrieval, too"

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ([HEADER, LINES[0], "LOC\tLOC:city\tWhere ?"], r"Line 3 .*does not pair.*Where \?"),
            ([HEADER, "LOC\tLOC:city\t \tकहाँ?"], r"Line 2 .*does not pair.*Leave out"),
            (LINES, "--data-dir.*a header coarse, fine, english, hindi"),
            ([HEADER, "HUM\tHUM:ind\tWho ?\tकौन?"], r"test texts of the 2 classes.*\['HUM'\], too"),
        ],
    )
    def test_files_that_will_not_do(self, lines, message, tmp_path):
        write(tmp_path / "trec", "train", [HEADER, *LINES])
        write(tmp_path / "trec", "test", lines)
        with pytest.raises(ValueError, match=message):
            read(tmp_path)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"train.tsv.*folder 'trec'.*text_data.py"):
            read(tmp_path)

    def test_texts_without_classes(self):
        with pytest.raises(ValueError, match=r"--data.*halves.*trec.*multi30k"):
            text_data.with_classes(SimpleNamespace(data="multi30k", data_dir=None))


@pytest.mark.once
def test_halves_have_the_classes_of_where_they_are_from(monkeypatch):
    long = {f"{i} " + " ".join(["a", "b"] * 40): f"package{i % 2}.module{i}" for i in range(4)}
    monkeypatch.setattr(text_data, "_documentation", lambda: {**long, "too short": "other"})
    monkeypatch.setattr(text_data, "TESTED", 1)
    (texts, names), (tested, of_tested) = text_data.halves()
    for first, second, coarse, fine in zip(*texts.values(), *names, strict=True):
        assert long[f"{first} {second}"] == fine
        assert coarse == fine.split(".")[0]
    assert len(names.fine) == 3
    assert len(of_tested.fine) == len(tested["first half"]) == 1


@pytest.mark.once
def test_words_of_hindi_are_whole():
    assert text_classifiers.words("कितनी दूर है?") == ["कितनी", "दूर", "है"]
    ids_of, count = text_classifiers.numbered(["कितनी दूर है?", "Is it दूर, है it"])
    assert count == 2 + 3, "padding, unknown, and what occurs twice"
    assert ids_of(["दूर x है", ""])[:, :4].tolist() == [[3, 1, 4, 0], [0, 0, 0, 0]]
    assert ids_of(["it " * 100]).shape == (1, text_classifiers.LENGTH)


@pytest.mark.once
def test_scores_by_hand():
    outputs = np.eye(3)[[0, 0, 1, 2]]
    y = np.array([0, 1, 1, 1])
    assert example.accuracy(y, outputs) == 50
    # F1 of class 0, once there, is 2 / 3; of class 1, three times, 1 / 2; class 2 is not there.
    assert example.weighted_f1(y, outputs) == pytest.approx(100 * (2 / 3 + 3 * 1 / 2) / 4)


@pytest.mark.once
def test_validation_texts_are_of_the_training_texts():
    count = 30
    texts = text_data.Texts({"a": [f"a{i}" for i in range(count)]}, {"a": ["never"]})
    classes = text_data.Classes(np.arange(count) % 3, np.arange(count))
    found, train, scored = example.held_out(texts, classes, 0)
    assert len(scored.fine) == 3
    assert sorted([*train.fine, *scored.fine]) == list(range(count))
    for part, of_part in ((found.train, train), (found.test, scored)):
        assert part["a"] == [f"a{i}" for i in of_part.fine]
        assert of_part.coarse.tolist() == (of_part.fine % 3).tolist()


def test_a_head_is_the_ridge_of_normalised_codes():
    rng = np.random.default_rng(0)
    codes, labels = rng.normal(size=(40, 5)).astype("float32"), rng.integers(0, 3, 40)
    x = codes - codes.mean(axis=1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)
    targets = np.eye(3)[labels]
    centred, means = x - x.mean(axis=0), targets.mean(axis=0)
    kernel = np.linalg.solve(centred.T @ centred + 7 * np.eye(5), centred.T @ (targets - means))
    expected = centred @ kernel + means
    found = example.head(codes, labels, 7.0).predict(codes, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:Layer 'position_embedding'")  # KerasHub's, of its mask
@pytest.mark.parametrize("kind", list(text_classifiers.ENCODERS))
def test_encoders_learn_classes(kind):
    """Of which words tell the class; padding changes no vector."""
    if kind == "transformer":
        pytest.importorskip("keras_hub", reason="the transformer needs the extra text")
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    texts = [
        " ".join(rng.permutation(["w", "x", "y", "z", f"c{label}", f"d{label}"]))
        for label in labels
    ]
    args = SimpleNamespace(width=4, epochs=15, batch_size=20, progress=Progress())
    encode = text_classifiers.ENCODERS[kind](texts, labels, args, 0)
    space = encode(texts)
    assert space.shape == (120, 4)
    centres = np.stack([space[labels == c].mean(axis=0) for c in range(3)])
    nearest = np.linalg.norm(space[:, None] - centres, axis=2).argmin(axis=1)
    assert np.mean(nearest == labels) > 0.9


def test_spaces_that_are_turned():
    """Relative codes and a rotation fitted on the anchors find what another head learnt."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    space = rng.normal(size=(120, 4)).astype("float32") + 6 * np.eye(4, dtype="float32")[labels]
    turned = space @ np.linalg.qr(rng.normal(size=(4, 4)))[0].astype("float32")
    spaces = [(each[:90], each[90:]) for each in (space, 3 * turned)]
    args = SimpleNamespace(
        anchors=[10, 30], decay=1.0, encoders=["k"], languages=("a", "b"), epochs=None
    )
    found = {}
    for name, score, matrix in example.matrices(args, spaces, (labels[:90], labels[90:]), 0):
        found[name, score] = matrix
    assert len(found) == 2 * (1 + 3 * len(args.anchors))
    for number in args.anchors:
        for kind in (example.RELATIVE, example.PROCRUSTES):
            for score in example.SCORES:
                assert found[example.named(kind, number), score].min() > 95
        control = found[example.named(example.PERMUTED, number), example.ACCURACY]
        assert control.mean() < 70
    rows = example.rows_of(args, "s", "score", np.array([[1.0, 2.0], [3.0, 4.0]]))
    values = {row["metric"]: row["value"] for row in rows}
    assert values == {
        "score: own head": 2.5,
        "score: b with the head of a": 3,
        "score: a with the head of b": 2,
        "score: k, a → k, a": 1,
        "score: k, a → k, b": 2,
        "score: k, b → k, a": 3,
        "score: k, b → k, b": 4,
    }


def test_decays_by_what_heads_make_of_the_other_language():
    """Of one space and the same with its axes in another order, heads make as much."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    space = rng.normal(size=(120, 4)).astype("float32") + 2 * np.eye(4, dtype="float32")[labels]
    spaces = [(each[:90], each[90:]) for each in (space, 3 * space[:, ::-1])]
    args = SimpleNamespace(anchors=[10, 30], encoders=["k"], languages=("a", "b"))
    rows = list(example.by_decay(args, spaces, (labels[:90], labels[90:]), "fine", 0))
    assert [row["variant"] for row in rows[::2]] == [f"decay {d:g}" for d in example.DECAYS]
    own, other = ([row["value"] for row in rows[i::2]] for i in (0, 1))
    np.testing.assert_allclose(own, other, atol=1e-4)  # the spaces are the same, but for an order
    assert max(own) > 60
    frame = pd.DataFrame(rows).assign(value=[1, 2] * 4 + [1, 9])
    assert example.conclude(frame).endswith("decay 10000.")


@pytest.mark.once
def test_too_few_texts_for_the_anchors(monkeypatch):
    classes = text_data.Classes(np.zeros(5, int), np.zeros(5, int))
    texts = text_data.Texts({"a": ["x"] * 5}, {"a": ["x"] * 5})
    monkeypatch.setattr(text_data, "with_classes", lambda args: (texts, classes, classes))
    args = SimpleNamespace(anchors=[3, 6], select=False)
    with pytest.raises(ValueError, match=r"too few texts.*training texts, 5.*\[3, 6\]"):
        example.run_seed(args, 0)
