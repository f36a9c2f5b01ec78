"""The figure of queries and what they found, through its artists."""

import numpy as np
import pytest

import keras_lgg as lgg
from keras_lgg.plots import retrieved

matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plots")

from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

pytestmark = pytest.mark.once  # matplotlib draws arrays

IMAGES = np.random.default_rng(0).random((9, 6, 4))
FOUND = np.array([[1, 2, 3], [4, 5, 0]])
HITS = np.array([[True, False, True], [False, False, True]])
TEXTS = ["a cat", "a word " * 60, "ein Hund", "un chien", "un chat", "pes"]


def frames(axis):
    return [each for each in axis.patches if isinstance(each, Rectangle)]


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_images_and_frames():
    figure = lgg.plots.neighbours(FOUND, IMAGES, hits=HITS, title="Pixels")
    (axis,) = figure.axes
    order = [0, *FOUND[0], 1, *FOUND[1]]
    assert len(axis.images) == len(order)
    for image, i in zip(axis.images, order, strict=True):
        np.testing.assert_allclose(image.get_array(), IMAGES[i])
        left, right, bottom, top = image.get_extent()
        assert (right - left) / (bottom - top) == pytest.approx(4 / 6)
    looks = [retrieved.HIT if hit else retrieved.MISS for hit in HITS.ravel()]
    assert [to_hex(f.get_edgecolor()).upper() for f in frames(axis)] == [x[0] for x in looks]
    assert [f.get_linestyle() for f in frames(axis)] == [x[1] for x in looks]
    marks = [text for text in texts(axis) if text in "✓✗"]
    assert marks == [x[2] for x in looks]
    assert [t for t in texts(axis) if t not in "✓✗"] == ["query", "1", "2", "3"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["✓ relevant", "✗ not relevant"]
    assert figure.get_suptitle() == "Pixels"


def test_everything_is_inside():
    for found, queries, keys in ((FOUND, IMAGES, None), (np.zeros((4, 12), int), TEXTS[:4], TEXTS)):
        figure = lgg.plots.neighbours(
            found, queries, keys=keys, hits=np.ones(found.shape), title="Title"
        )
        figure.draw_without_rendering()
        (axis,) = figure.axes
        for artist in (*axis.images, *axis.texts, *frames(axis), *figure.legends):
            box = artist.get_window_extent()
            assert figure.bbox.x0 - 1 <= box.x0
            assert box.x1 <= figure.bbox.x1 + 1
            assert figure.bbox.y0 - 1 <= box.y0
            assert box.y1 <= figure.bbox.y1 + 1


def test_nothing_framed_without_hits():
    figure = lgg.plots.neighbours(FOUND, IMAGES)
    assert not frames(figure.axes[0])
    assert not figure.legends


def test_texts_stay_in_their_cells():
    figure = lgg.plots.neighbours(FOUND, TEXTS[:2], keys=np.array(TEXTS), hits=HITS)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    words = [text for text in axis.texts if text.get_text()[0].isalpha()][1:]  # without "query"
    shown = [text.get_text().split("\n")[0] for text in words]
    assert [s[:6] for s in shown] == [TEXTS[i][:6] for i in (0, 1, 2, 3, 1, 4, 5, 0)]
    assert words[1].get_text().endswith(" …")
    cells = [frame.get_window_extent() for frame in frames(axis)]
    for text, cell in zip([*words[1:4], *words[5:]], cells, strict=True):
        box = text.get_window_extent()
        assert cell.x0 < box.x0
        assert box.x1 < cell.x1
        assert cell.y0 < box.y0
        assert box.y1 < cell.y1


def test_texts_that_find_images():
    colored = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), "uint8")
    figure = lgg.plots.neighbours(FOUND, TEXTS[:2], keys=colored[..., :1])
    assert len(figure.axes[0].images) == 6
    figure = lgg.plots.neighbours(FOUND, colored[:2], keys=colored)
    np.testing.assert_allclose(figure.axes[0].images[1].get_array(), colored[1] / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("found", "queries", "keys", "message"),
    [
        (FOUND[0], IMAGES, None, "`found`.*int64 of shape"),
        (FOUND * 0.5, IMAGES, None, "`found`.*float64"),
        (FOUND, IMAGES[:1], None, "the 2 queries.*1"),
        (FOUND, IMAGES, IMAGES, "the 2 queries.*9"),
        (FOUND, IMAGES[:2], IMAGES[:4], "from 0 to 3.*0 to 5"),
        (FOUND, IMAGES.reshape(9, -1), None, "images.*shape"),
        (FOUND, 2 * IMAGES, None, r"\[0, 1\]"),
    ],
)
def test_errors(found, queries, keys, message):
    with pytest.raises(ValueError, match=message):
        lgg.plots.neighbours(found, queries, keys=keys)


def test_hits_are_as_many():
    with pytest.raises(ValueError, match=r"`hits`.*\(2, 3\).*\(2, 2\)"):
        lgg.plots.neighbours(FOUND, IMAGES, hits=HITS[:, :2])
