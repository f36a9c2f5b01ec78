"""The figure of all layers of one network against all layers of another."""

from collections.abc import Sequence

import numpy as np

from keras_lgg import checks
from keras_lgg.plots import style
from keras_lgg.relative.similarity_maps import SimilarityMap
from keras_lgg.types import Figure

# The ends of the scale of a measure; for others, the ends of its values.
SCALES = {
    "linear_cka": (0, 1),
    "debiased_cka": (0, 1),
    "minibatch_cka": (0, 1),
    "rbf_cka": (0, 1),
    "svcca": (0, 1),
    "pwcca": (0, 1),
    "rsa": (-1, 1),
    "procrustes_distance": (0, np.sqrt(2)),
    "neighbour_jaccard": (0, 1),
}
MISSING = "#BBBBBB"


@style.styled
def similarity_map(
    found: SimilarityMap,
    *,
    title: str = "Similarity of the layers",
    names: Sequence[str] = ("layers of a", "layers of b"),
) -> Figure:
    """How similar every layer of one network is to every layer of another, as an image.

    The first layers are at the bottom and on the left. The scale is that of the measure, so that
    figures can be compared: from 0 to 1; for ``"rsa"`` from -1 to 1; for ``"procrustes_distance"``
    from 0 to √2. Values that are below 0 by chance are drawn as 0. For a function of your own, the
    scale ends at its smallest and largest value. NaN is gray.

    Args:
        found: What `keras_lgg.relative.similarity_map` returned.
        title: Title of the figure.
        names: Labels of the y axis, for the rows of the matrix, and of the x axis.

    Returns:
        A figure, 3.4 inches wide. Names of layers without room are left out.

    Raises:
        ValueError: If an argument is not as above.
        ImportError: If matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> import keras_lgg as lgg
        >>> matrix = np.array([[1.0, 0.5], [0.4, 0.9]])
        >>> found = lgg.relative.SimilarityMap(matrix, ("h1", "h2"), ("h1", "h2"), "linear_cka")
        >>> figure = lgg.plots.similarity_map(found, names=("wide", "narrow"))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['h1', 'h2']

    Reference: Kornblith et al., "Similarity of neural network representations revisited", ICML
    2019, https://arxiv.org/abs/1905.00414
    """
    _check(found, names)
    low, high = _scale(found)
    rows, columns = found.matrix.shape
    lines = [style.wrapped(name, 0.9, style.SMALL) for name in found.layers_a]
    # The side of the image, in inches, beside names, labels and colour bar.
    side = 2.2 - max(style.text_width(line, style.SMALL) for line in lines)
    height = side * min(max(rows / columns, 0.25), 2)
    figure, ((axis,),) = style.empty_figure(1, 1, (style.COLUMN, height + 0.75))
    colors = checks.require("matplotlib", "plots").colormaps["magma"].with_extremes(bad=MISSING)
    image = axis.imshow(
        found.matrix,
        cmap=colors,
        vmin=low,
        vmax=high,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    figure.colorbar(image, label=found.measure.replace("_", " "))
    style.heighten(figure, style.name_places(axis, np.arange(columns), found.layers_b, side))
    tallest = 1 + max(line.count("\n") for line in lines)
    shown = style.apart(np.arange(rows), 0.85 * tallest * style.LINE * rows / height)
    axis.set_yticks(shown, [lines[i] for i in shown])
    axis.tick_params(length=0)
    axis.set(ylabel=names[0], xlabel=names[1])
    axis.set_title(style.wrapped(title, 2.4, 8))
    return figure


def _check(found, names):
    if not isinstance(found, SimilarityMap):
        expected = "what lgg.relative.similarity_map returned"
        raise checks.invalid("found", expected, type(found).__name__)
    if isinstance(names, str) or len(names) != 2:
        raise checks.invalid("names", "a pair of names for the two networks", repr(names))


def _scale(found):
    if found.measure in SCALES:
        return SCALES[found.measure]
    values = found.matrix[np.isfinite(found.matrix)]
    return (values.min(), values.max()) if len(values) else (0, 1)
