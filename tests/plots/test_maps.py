"""The figure of a map of layers, through its artists."""

import itertools

import numpy as np
import pytest

import keras_lgg as lgg

matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plots")

pytestmark = pytest.mark.once  # matplotlib draws arrays


def found(matrix, measure="linear_cka", prefix="h"):
    matrix = np.array(matrix)
    rows, columns = ([f"{prefix}{i}" for i in range(n)] for n in matrix.shape)
    return lgg.relative.SimilarityMap(matrix, tuple(rows), tuple(columns), measure)


def test_rows_and_columns():
    matrix = [[1.0, 0.2, 0.1], [0.3, 0.9, np.nan]]
    figure = lgg.plots.similarity_map(found(matrix), title="Two", names=("deep", "wide"))
    axis, bar = figure.axes
    (image,) = axis.images
    shown = image.get_array()
    np.testing.assert_array_equal(shown.filled(np.nan), matrix)
    assert image.origin == "lower"  # depth goes up
    assert image.get_clim() == (0, 1)
    assert [t.get_text() for t in axis.get_yticklabels()] == ["h0", "h1"]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["h0", "h1", "h2"]
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("deep", "wide")
    assert axis.get_title() == "Two"
    assert bar.get_ylabel() == "linear cka"
    gray = matplotlib.colors.to_rgba(lgg.plots.maps.MISSING)
    assert tuple(image.cmap.get_bad()) == gray


@pytest.mark.parametrize(
    ("measure", "scale"),
    [
        ("rsa", (-1, 1)),
        ("procrustes_distance", (0, 2**0.5)),
        ("debiased_cka", (0, 1)),
        ("of my own", (-3, 0.5)),
    ],
)
def test_scales(measure, scale):
    figure = lgg.plots.similarity_map(found([[0.5, -3.0]], measure))
    assert figure.axes[0].images[0].get_clim() == pytest.approx(scale)


def test_all_nan():
    figure = lgg.plots.similarity_map(found([[np.nan]], "of my own"))
    assert figure.axes[0].images[0].get_clim() == (0, 1)


def test_every_measure_has_a_scale():
    from keras_lgg.relative.similarity_maps import MEASURES

    assert set(lgg.plots.maps.SCALES) == set(MEASURES)


@pytest.mark.parametrize(
    ("rows", "columns", "prefix"),
    [
        (1, 1, "h"),
        (60, 40, "h"),
        (2, 40, "backbone/stage2_block"),
        (40, 2, "backbone/stage2_block"),
    ],
)
def test_names_have_room(rows, columns, prefix):
    figure = lgg.plots.similarity_map(found(np.eye(rows, columns), prefix=prefix))
    figure.draw_without_rendering()
    axis = figure.axes[0]
    for labels, side in ((axis.get_yticklabels(), "y"), (axis.get_xticklabels(), "x")):
        boxes = sorted(
            (label.get_window_extent() for label in labels),
            key=lambda box: getattr(box, f"{side}0"),
        )
        assert boxes
        for one, other in itertools.pairwise(boxes):
            assert getattr(one, f"{side}1") < getattr(other, f"{side}0") + 1
    for label in (axis.yaxis.label, axis.xaxis.label, axis.title):
        box = label.get_window_extent()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0]],), "`found`.*similarity_map.*list"),
        ((None,), "`found`.*NoneType"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        lgg.plots.similarity_map(*arguments)


def test_names_are_two():
    for names in ("ab", ("a",)):
        with pytest.raises(ValueError, match=r"`names`.*pair"):
            lgg.plots.similarity_map(found([[1.0]]), names=names)
