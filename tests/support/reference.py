"""What the package computes, as slow and obvious NumPy loops in float64."""

import itertools
import math

import numpy as np


def rows(x):
    x = np.asarray(x, "float64")
    return x.reshape(len(x), -1)


def similarity(x, metric="cosine", alpha=1.0):
    x = rows(x)
    n = len(x)
    s = np.zeros((n, n))
    norms = [max(np.linalg.norm(row), 1e-12) for row in x]
    for i in range(n):
        for j in range(n):
            if metric == "cosine":
                s[i, j] = x[i] @ x[j] / (norms[i] * norms[j])
            else:
                distance = np.linalg.norm(x[i] - x[j])
                s[i, j] = np.exp(-alpha * (distance**2 if metric == "rbf" else distance))
    return s


def normalize_degrees(a):
    n = len(a)
    degree = [a[i].sum() for i in range(n)]
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if degree[i] > 0 and degree[j] > 0:
                out[i, j] = a[i, j] / np.sqrt(degree[i] * degree[j])
    return out


def knn_mask(a, k):
    n = len(a)
    near = np.zeros((n, n), bool)
    for i in range(n):
        others = np.delete(a[i], i)
        for j in range(n):
            near[i, j] = i != j and np.sum(others > a[i, j]) < k
    return near | near.T


def graph(x, metric="cosine", alpha=1.0, k=None, normalize=True, pairs="all", labels=None):
    a = similarity(x, metric, alpha)
    n = len(a)
    for i in range(n):
        a[i, i] = 0.0
    if normalize:
        a = normalize_degrees(a)
    for i in range(n):
        for j in range(n):
            if pairs == "intra" and labels[i] != labels[j]:
                a[i, j] = 0.0
            if pairs == "inter" and labels[i] == labels[j]:
                a[i, j] = 0.0
    return a if k is None else a * knn_mask(a, k)


def laplacian(a, normalized=False):
    n = len(a)
    degree = a.sum(axis=1)
    if not normalized:
        return np.diag(degree) - a
    return np.diag([1.0 if degree[i] > 0 else 0.0 for i in range(n)]) - normalize_degrees(a)


def smoothness(a, signal, power=1, normalized=False):
    operator = np.linalg.matrix_power(laplacian(a, normalized), power)
    return np.trace(signal.T @ operator @ signal)


def one_hot(labels, num_classes):
    y = np.zeros((len(labels), num_classes))
    for i, label in enumerate(labels):
        y[i, label] = 1.0
    return y


def label_smoothness(x, labels, power=1, k=None, relative=False):
    y = one_hot(labels, max(labels) + 1)
    value = smoothness(graph(x, k=k, normalize=False), y, power, normalized=relative)
    return value / len(y) if relative else value


def graph_distillation(teacher, student, k=None, power=1, pairs="all", labels=None):
    t = graph(teacher, pairs=pairs, labels=labels)
    s = graph(student, pairs=pairs, labels=labels)
    if k is not None:
        mask = knn_mask(t, k)
        t, s = t * mask, s * mask
    t, s = np.linalg.matrix_power(t, power), np.linalg.matrix_power(s, power)
    return np.array([np.sum((s[i] - t[i]) ** 2) for i in range(len(t))])


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def relative_distances(x):
    x = rows(x)
    n = len(x)
    d = np.array([[np.linalg.norm(x[i] - x[j]) for j in range(n)] for i in range(n)])
    return d / (d.sum() / (n * (n - 1)))


def relational_distance(teacher, student):
    t, s = relative_distances(teacher), relative_distances(student)
    n = len(t)
    return np.array(
        [np.mean([huber(s[i, j] - t[i, j]) for j in range(n) if j != i]) for i in range(n)]
    )


def similarity_preserving(teacher, student):
    """The mean square of each row's difference: profiles of inner products, scaled to norm 1."""
    profiles = []
    for x in (rows(teacher), rows(student)):
        norms = [np.linalg.norm(x @ row) or 1.0 for row in x]
        profiles.append([x @ row / norm for row, norm in zip(x, norms, strict=True)])
    return np.mean(np.square(np.subtract(*profiles)), axis=1)


def probabilistic_transfer(teacher, student, small=1e-7):
    t, s = (0.5 * (similarity(x) + 1) for x in (teacher, student))
    t, s = (x / x.sum(axis=1, keepdims=True) for x in (t, s))
    return np.mean(t * np.log((t + small) / (s + small)), axis=1)


def correlation_congruence(teacher, student, gamma=0.4, order=2):
    def kernel(x):
        terms = [(2 * gamma * similarity(x)) ** p / math.factorial(p) for p in range(order + 1)]
        return np.exp(-2 * gamma) * sum(terms)

    return np.mean(np.square(kernel(teacher) - kernel(student)), axis=1)


def angle(x, i, j, k):
    a, b = x[i] - x[j], x[k] - x[j]
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norms if norms > 0 else 0.0


def relational_angle(teacher, student, arms=128):
    t, s = rows(teacher), rows(student)
    n, m = len(t), min(len(t), arms)
    return np.array(
        [
            np.mean(
                [
                    huber(angle(s, i, j, k) - angle(t, i, j, k))
                    for i in range(m)
                    for k in range(m)
                    if len({i, j, k}) == 3
                ]
            )
            for j in range(n)
        ]
    )


def graph_smoothness(labels, z, alpha=1.0, k=None):
    a = graph(z, metric="exponential", alpha=alpha, k=k, normalize=False)
    n = len(a)
    return np.array([sum(a[i, j] for j in range(n) if labels[i] != labels[j]) for i in range(n)])


def target_graph(target, z, metric="cosine", alpha=1.0):
    """Here the target is the whole graph."""
    s = similarity(z, metric, alpha)
    n = len(s)
    return np.array(
        [sum((s[i, j] - target[i, j]) ** 2 for j in range(n) if i != j) for i in range(n)]
    )


def smoothness_variation(representations, labels, power=1, k=None, relative=False):
    sigma = [label_smoothness(x, labels, power, k, relative) for x in representations]
    return np.mean([abs(b - a) for a, b in itertools.pairwise(sigma)])


def graph_variation(representations, k=None):
    a = [graph(x, k=k) for x in representations]
    return np.mean([((q - p) ** 2).sum() for p, q in itertools.pairwise(a)])


def parseval(kernel, beta):
    """A kernel with the outputs on its last axis."""
    w = np.reshape(kernel, (-1, np.shape(kernel)[-1])).T
    return ((1 + beta) * w - beta * w @ w.T @ w).T.reshape(np.shape(kernel))


def numerical_gradient(function, x, step=1e-6):
    """Central differences of a scalar function of one array."""
    x = np.asarray(x, "float64")
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        shifted = x.copy()
        shifted[index] += step
        above = function(shifted)
        shifted[index] -= 2 * step
        gradient[index] = (above - function(shifted)) / (2 * step)
    return gradient


def normalized_by_anchors(x, anchors, normalization="none"):
    """Samples and anchors by the statistics of the anchors."""
    x, a = rows(x), rows(anchors)
    count, width = a.shape
    if normalization == "none":
        return x, a
    mean = sum(a) / count
    x, a = x - mean, a - mean
    if normalization == "standardize":
        for j in range(width):
            deviation = np.sqrt(sum(a[i, j] ** 2 for i in range(count)) / count)
            if deviation > 0:
                x[:, j], a[:, j] = x[:, j] / deviation, a[:, j] / deviation
    if normalization == "whiten":
        covariance = sum(np.outer(row, row) for row in a) / count
        if count <= width:
            covariance += 1e-6 * np.trace(covariance) / width * np.eye(width)
        variances, axes = np.linalg.eigh(covariance)
        root = np.zeros((width, width))
        for variance, axis in zip(variances, axes.T, strict=True):
            if variance > 1e-12 * variances[-1]:
                root += np.outer(axis, axis) / np.sqrt(variance)
        x, a = x @ root, a @ root
    return x, a


def relative_entry(x, a, similarity, p=2.0, eps=1e-12):
    """The similarity of one sample and one anchor."""
    cosine = x @ a / (max(np.linalg.norm(x), eps) * max(np.linalg.norm(a), eps))
    differences = [abs(u - v) for u, v in zip(x, a, strict=True)]
    return {
        "cosine": lambda: cosine,
        "inner": lambda: x @ a / np.sqrt(len(a)),
        "angular": lambda: np.arccos(np.clip(cosine, -1, 1)) / np.pi,
        "euclidean": lambda: np.sqrt(sum(d**2 for d in differences)),
        "l1": lambda: sum(differences),
        "lp": lambda: sum(d**p for d in differences) ** (1 / p),
    }[similarity]()


def relative_codes(x, anchors, similarity="cosine", normalization="none", p=2.0, eps=1e-12):
    x, a = normalized_by_anchors(x, anchors, normalization)
    if similarity == "basis_change":
        # Singular values of the rounding of a mean that should be 0 do not count.
        return np.array([np.linalg.lstsq(a.T, row, rcond=1e-9)[0] for row in x])
    return np.array([[relative_entry(row, b, similarity, p, eps) for b in a] for row in x])
