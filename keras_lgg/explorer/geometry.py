"""What there is to see of one layer: which samples are near which, and how this fits the labels."""

from typing import Any, NamedTuple

import numpy as np

from keras_lgg.callbacks import measures
from keras_lgg.relative.comparison import unit_rows
from keras_lgg.retrieval.search import neighbours

MEASURES = ("label_smoothness", "effective_rank", "knn_accuracy")


class Geometry(NamedTuple):
    """The geometry of a layer, on n samples.

    Attributes:
        cosines: Similarities ``(n, n)``.
        neighbours: The k nearest of each sample, the nearest first, ``(n, k)``.
        measures: Dict from the names in `MEASURES` to numbers; without labels, only the effective
            rank.
        votes: The class of most of a sample's neighbours, ``(n,)``, numbered from 0; if several
            classes tie, that of the nearest. ``None`` without labels.
        against: How many of a sample's neighbours are of another class than the sample, ``(n,)``.
        suspects: The samples whose neighbours vote for another class: those with the most
            neighbours against them first, and among equal ones those with the clearest vote.
    """

    cosines: np.ndarray
    neighbours: np.ndarray
    measures: dict[str, float]
    votes: Any = None
    against: Any = None
    suspects: Any = ()


def geometry_of(
    rows: np.ndarray, k: int, classes: np.ndarray | None = None, signal: Any = None
) -> Geometry:
    """The geometry of a layer.

    Args:
        rows: Array ``(n, d)``, finite.
        k: How many neighbours vote, at most n - 1.
        classes: Class of each sample, numbered from 0; or ``None``.
        signal: Labels and their number of classes, for the smoothness.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.explorer.geometry import geometry_of
        >>> x = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [1, 0.05]])
        >>> classes = np.array([0, 0, 0, 1, 1, 1])  # the last one lies with the others
        >>> found = geometry_of(x, 1, classes, (classes, 2))
        >>> found.suspects.tolist(), found.votes.tolist(), found.measures["knn_accuracy"]
        ([0, 1, 5], [1, 1, 0, 1, 1, 0], 0.5)
    """
    unit = unit_rows(rows.astype("float32"))
    nearest, _ = neighbours(rows, k=k)
    found = Geometry(
        cosines=np.clip(unit @ unit.T, -1, 1),
        neighbours=nearest,
        measures={"effective_rank": measures.effective_rank(rows)},
    )
    if classes is None:
        return found
    votes, against, suspects = ballot(nearest, classes)
    numbers = (
        measures.label_smoothness(rows, *signal),
        found.measures["effective_rank"],
        float(np.mean(votes == classes)),
    )
    return found._replace(
        measures=dict(zip(MEASURES, numbers, strict=True)),
        votes=votes,
        against=against,
        suspects=suspects,
    )


def ballot(nearest: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How the neighbours of each sample vote: `votes`, `against`, `suspects` of `Geometry`."""
    theirs = classes[nearest]
    k = nearest.shape[1]
    # Of classes with equally many votes, the one that comes first among the neighbours.
    counts = (theirs[:, :, None] == theirs[:, None, :]).sum(axis=2)
    votes = np.take_along_axis(theirs, counts.argmax(axis=1)[:, None], axis=1)[:, 0]
    against = k - (theirs == classes[:, None]).sum(axis=1)
    order = np.lexsort((np.arange(len(classes)), -counts.max(axis=1), -against))
    return votes, against, order[votes[order] != classes[order]]
