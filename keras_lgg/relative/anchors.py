"""Choosing the anchors of relative representations: samples of the training set, as indices.

[1] Moschella et al., "Relative representations enable zero-shot latent space communication",
    arXiv 2209.15430.
"""

import itertools
import numbers
import warnings

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.labels import classes_on_host
from keras_lgg.relative import structures
from keras_lgg.relative.comparison import ROUNDING, finite_rows, row_blocks, unit_rows
from keras_lgg.types import ArrayLike, Samples

# The option that each method needs; no other method takes it.
OPTIONS = {
    "uniform": None,
    "stratified": "labels",
    "fps": None,
    "kmeans": None,
    "top_n": "first",
    "best_aligned": "other",
}
METHODS = tuple(OPTIONS)
BY_DIRECTION = ("fps", "kmeans", "best_aligned")  # these look at more of the samples than n


def select_anchors(
    x: Samples,
    k: int,
    *,
    method: str = "uniform",
    labels: ArrayLike | None = None,
    first: int | None = None,
    other: ArrayLike | None = None,
    seed: int = 0,
) -> np.ndarray:
    r"""Choose k samples to serve as anchors, and return their indices.

    The order of the anchors is the order of the axes of the relative codes, so models that are to
    share codes must use the same list. Select once, in one space or in none, and index the inputs
    of every model with the result. Pairs, such as sentences and their translations, are selected
    together: ``select_anchors((english, hindi), k)``.

    The methods are

    * ``"uniform"``: at random;
    * ``"stratified"``: at random, taking a sample from each class in turn, so that the classes have
      equally many anchors, or one more, unless a class runs out of samples;
    * ``"fps"``: farthest point sampling: from a random start, always the sample that is farthest
      from its nearest anchor;
    * ``"kmeans"``: for each of k clusters, the sample with the largest cosine to the centre, or the
      next one if that is an anchor already;
    * ``"top_n"``: at random among the first samples, as for words ordered by frequency;
    * ``"best_aligned"``: the samples whose distances to all others agree best in two spaces.

    All but the random methods look only at the directions :math:`u_i = x_i / \|x_i\|` of the
    samples. After the anchors :math:`a_1, \dots, a_j`, ``"fps"`` takes the sample

    .. math::

        a_{j+1} = \arg\max_i \min_{l \le j} \|u_i - u_{a_l}\| ,

    and ``"best_aligned"`` takes the k samples with the smallest

    .. math::

        \left\| \frac{\delta_i}{\|\delta_i\|} - \frac{\delta'_i}{\|\delta'_i\|} \right\| ,

    where :math:`\delta_i` and :math:`\delta'_i` are the distances of :math:`u_i` to all samples, in
    the one space and in the other.

    Args:
        x: Samples of the training set, one row per sample: inputs ``(n, ...)`` or, for ``"fps"``,
            ``"kmeans"`` and ``"best_aligned"``, preferably their representations, which are
            flattened. The other methods use only n, so ``x`` may hold strings, or be a dict, tuple
            or list of arrays with n rows each: the inputs of one model or of several.
        k: Number of anchors, from 2 to n.
        method: ``"uniform"``, ``"stratified"``, ``"fps"``, ``"kmeans"``, ``"top_n"`` or
            ``"best_aligned"``, as above.
        labels: For ``"stratified"``: integers of shape ``(n,)`` or ``(n, 1)``, or one-hot or soft
            labels of shape ``(n, c)``, of which the largest counts.
        first: For ``"top_n"``: the number of samples to choose among, from k to n.
        other: For ``"best_aligned"``: array of shape ``(n, ...)``, the same samples in the other
            space, of any width.
        seed: Integer of at least 0. It has no effect on ``"best_aligned"``, which draws nothing.

    Returns:
        NumPy array of shape ``(k,)``, int64: different indices in ascending order.

    Raises:
        ValueError: If an argument is not as above, the arrays of ``x`` have different numbers of
            samples, the option that the method needs is missing, or one is given that it does not
            use.
        ImportError: If ``"kmeans"`` does not find scikit-learn, which the extra ``relative``
            brings.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.relative import select_anchors
        >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
        >>> chosen = select_anchors(np.zeros((9, 4)), 6, method="stratified", labels=labels)
        >>> labels[chosen].tolist()
        [0, 0, 0, 1, 1, 2]
        >>> corners = np.array([[1, 0], [9, 1], [0, 1], [1, 8], [-1, 0], [0, -1]])
        >>> select_anchors(corners, 4, method="fps", seed=4).tolist()
        [0, 2, 4, 5]
        >>> english, german = np.array(["dog", "cat", "cow"]), np.array(["Hund", "Katze", "Kuh"])
        >>> german[select_anchors((english, german), 2)].tolist()
        ['Katze', 'Kuh']

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, https://arxiv.org/abs/2209.15430
    """
    n = structures.sample_count("x", x)
    checks.check_choice("method", method, METHODS)
    _check_integer("k", k, 2)
    if k > n:
        raise checks.invalid("k", f"at most {n}, the number of samples", k)
    _check_integer("seed", seed, 0)
    _check_options(method, {"labels": labels, "first": first, "other": other})
    if method in BY_DIRECTION and (structures.is_structure(x) or structures.is_text(x)):
        expected = f"real numbers with method={method!r}, such as encoder.predict(x) returns"
        received = "several inputs" if structures.is_structure(x) else f"strings, {x.dtype}"
        raise checks.invalid("x", expected, received)
    rng = np.random.default_rng(seed)
    if method == "uniform":
        chosen = rng.choice(n, k, replace=False)
    elif method == "stratified":
        chosen = _in_turns(_class_numbers(n, labels), k, rng)
    elif method == "fps":
        chosen = _farthest(unit_rows(finite_rows("x", x)), k, rng)
    elif method == "kmeans":
        chosen = _nearest_to_centres(unit_rows(finite_rows("x", x)), k, seed)
    elif method == "top_n":
        chosen = rng.choice(_checked_first(first, k, n), k, replace=False)
    else:
        chosen = np.argsort(_misalignment(x, other), kind="stable")[:k]
    return np.sort(chosen).astype("int64")


def _check_integer(argument, value, smallest):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < smallest:
        raise checks.invalid(argument, f"an integer of at least {smallest}", repr(value))


def _check_options(method, options):
    """Raise unless the option that the method needs is given, and no other."""
    needed = OPTIONS[method]
    for name, value in options.items():
        if name == needed and value is None:
            raise checks.invalid(name, f"a value, which method={method!r} needs", None)
        if name != needed and value is not None:
            received = repr(value) if np.ndim(value) == 0 else f"shape {np.shape(value)}"
            expected = f"None with method={method!r}, which does not use it"
            raise checks.invalid(name, expected, received)


def _checked_first(first, k, n):
    checks.check_positive_integer("first", first)
    if not k <= first <= n:
        raise checks.invalid("first", f"a number from k={k} to n={n}, that of the samples", first)
    return first


def _class_numbers(n, labels):
    """The class of each sample, numbered from 0."""
    classes = classes_on_host(labels)
    checks.check_same_length(x=np.empty(n), labels=classes)
    return np.unique(classes, return_inverse=True)[1].reshape(-1)


def _in_turns(classes, k, rng):
    """The first k samples when the classes, in a random order, take turns."""
    shuffled = rng.permutation(len(classes))
    queues = [shuffled[classes[shuffled] == c] for c in rng.permutation(classes.max() + 1)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return np.fromiter(itertools.islice((i for i in turns if i is not None), k), "int64")


def _farthest(u, k, rng):
    chosen = [int(rng.integers(len(u)))]
    square = np.sum(u * u, axis=1)  # 1, or 0 of a row of zeros
    nearest = np.full(len(u), np.inf, u.dtype)
    while len(chosen) < k:
        last = chosen[-1]
        nearest = np.minimum(nearest, square + square[last] - 2 * (u @ u[last]))
        nearest[last] = -np.inf  # never again, even if all others are at distance 0
        chosen.append(_first_of_largest(nearest))
    return chosen


def _first_of_largest(values):
    """Index of the largest value, the first of equal ones; rounding does not tell them apart."""
    # The two samples of a cluster of two, for example, are equally near to its centre.
    margin = ROUNDING * np.finfo(values.dtype).eps
    return int(np.argmax(values >= np.max(values) - margin))


def _nearest_to_centres(u, k, seed):
    cluster = checks.require("sklearn.cluster", "relative")
    exceptions = checks.require("sklearn.exceptions", "relative")
    with warnings.catch_warnings():
        # With duplicates, some clusters get the same centre: its next nearest samples are taken.
        warnings.filterwarnings(
            "ignore", "Number of distinct clusters", exceptions.ConvergenceWarning
        )
        centres = cluster.KMeans(k, n_init=1, random_state=seed).fit(u).cluster_centers_
    chosen = []
    for centre in centres:
        similarity = u @ centre  # the cosine times the length of the centre
        similarity[chosen] = -np.inf
        chosen.append(_first_of_largest(similarity))
    return chosen


def _misalignment(x, other):
    """How much the distances of each sample to all others differ between two spaces."""
    x, other = finite_rows("x", x, "float64"), finite_rows("other", other, "float64")
    checks.check_same_length(x=x, other=other)
    x, other = unit_rows(x), unit_rows(other)
    return np.concatenate(
        [
            np.linalg.norm(unit_rows(_distances(x, r)) - unit_rows(_distances(other, r)), axis=1)
            for r in row_blocks(len(x))
        ]
    )


def _distances(u, rows):
    """Distances of a block of rows to all rows."""
    square = np.sum(u * u, axis=1)
    squares = square[rows, None] + square - 2 * (u[rows] @ u.T)
    return np.sqrt(np.maximum(squares, 0))
