"""The definitions of similarity measures as ReSi and netrep have them, in slow NumPy.

ReSi: Klabunde et al., "ReSi: a comprehensive benchmark for representational similarity measures",
arXiv 2408.00531. netrep: Williams et al., arXiv 2110.14739. Neither is on a package index.
"""

import itertools
import statistics

import numpy as np


def centred(x):
    return x - x.mean(axis=0)


def linear_kernel(x):
    n = len(x)
    return np.array([[x[i] @ x[j] for j in range(n)] for i in range(n)])


def hsic_of_song(k, l):  # noqa: E741
    """netrep's unbiased HSIC: of kernels without their diagonals."""
    n = len(k)
    k, l = (np.array(z, "float64") for z in (k, l))  # noqa: E741
    for i in range(n):
        k[i, i] = l[i, i] = 0
    product = k @ l
    trace = sum(product[i, i] for i in range(n))
    total = sum(product[i, j] for i in range(n) for j in range(n))
    return (trace - 2 * total / (n - 2) + k.sum() * l.sum() / ((n - 1) * (n - 2))) / (n * (n - 3))


def debiased_cka(a, b):
    return minibatch_cka(a, b, [range(len(a))])


def minibatch_cka(a, b, batches):
    """Means over the batches of each of the three terms."""
    terms = []
    for batch in batches:
        k, l = (linear_kernel(x[list(batch)]) for x in (a, b))  # noqa: E741
        terms.append([hsic_of_song(k, l), hsic_of_song(k, k), hsic_of_song(l, l)])
    cross, own_a, own_b = np.mean(terms, axis=0)
    return cross / np.sqrt(own_a * own_b)


def squared_distances(x):
    n = len(x)
    return np.array([[np.sum((x[i] - x[j]) ** 2) for j in range(n)] for i in range(n)])


def rbf_cka(a, b, bandwidth=1.0):
    """The cosine of netrep's angular distance of centred kernels, with gamma by the median."""
    kernels = []
    for x in (a, b):
        distances = squared_distances(x)
        pairs = itertools.combinations(range(len(x)), 2)
        sigma = bandwidth * np.sqrt(statistics.median(distances[i, j] for i, j in pairs))
        kernel = np.exp(-distances / (2 * sigma**2))
        n = len(x)
        centring = np.eye(n) - np.ones((n, n)) / n
        kernels.append(centring @ kernel @ centring)
    k, l = kernels  # noqa: E741
    return np.sum(k * l) / np.sqrt(np.sum(k * k) * np.sum(l * l))


def inverse_root(s):
    values, vectors = np.linalg.eigh(s)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def cca(a, b):
    """Turns, correlations, and inverse roots, of the covariances, as ReSi and the authors do."""
    a, b = centred(a), centred(b)
    n = len(a) - 1
    root_a, root_b = inverse_root(a.T @ a / n), inverse_root(b.T @ b / n)
    u, s, vt = np.linalg.svd(root_a @ (a.T @ b / n) @ root_b)
    return u, s, vt, root_a, root_b


def svcca(a, b, variance=0.99):
    """As in ReSi, whose cut is at a share of the variance where the squared norm is 1."""
    kept = []
    for x in (a, b):
        values, vectors = np.linalg.eigh(np.cov(x.T))
        order = np.argsort(-values)
        for k in range(1, len(values) + 1):
            if values[order[:k]].sum() >= variance * values.sum():
                break
        kept.append(centred(x) @ vectors[:, order[:k]])
    s = cca(*kept)[1]
    return np.mean(s[: min(z.shape[1] for z in kept)])


def pwcca(a, b, whitened=True):
    """Of the paper; ``whitened=False``: of the code published with it, and of ReSi."""
    u, s, vt, root_a, root_b = cca(a, b)
    x, turn, root = (a, u, root_a) if a.shape[1] <= b.shape[1] else (b, vt.T, root_b)
    x = centred(x)
    if not whitened:
        root = np.eye(len(root))
    directions = np.linalg.qr(x @ root @ turn)[0]
    weights = []
    for i in range(len(s)):
        weights.append(sum(abs(directions[:, i] @ x[:, j]) for j in range(x.shape[1])))
    return sum(w * c for w, c in zip(weights, s, strict=True)) / sum(weights)


def ranks(values):
    """From 1; ties have the mean of theirs."""
    return np.array([np.sum(values < v) + (1 + np.sum(values == v)) / 2 for v in values])


def rsa(a, b, metric="correlation"):
    """ReSi's: Spearman over the upper triangle."""
    alike = []
    for x in (a, b):
        pairs = itertools.combinations(range(len(x)), 2)
        if metric == "correlation":
            found = [np.corrcoef(x[i], x[j])[0, 1] for i, j in pairs]
        else:
            found = [-np.linalg.norm(x[i] - x[j]) for i, j in pairs]
        alike.append(ranks(np.array(found)))
    return np.corrcoef(*alike)[0, 1]


def padded(x, width):
    return np.concatenate([x, np.zeros((len(x), width - x.shape[1]))], axis=1)


def procrustes_distance(a, b, form="shape"):
    """ReSi's, with zeros up to the larger width; the angle is netrep's."""
    a, b = centred(a), centred(b)
    if form != "size":
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    width = max(a.shape[1], b.shape[1])
    a, b = padded(a, width), padded(b, width)
    nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    if form == "angle":
        return np.arccos(np.clip(nuclear, -1, 1))
    return np.sqrt(max(np.sum(a**2) + np.sum(b**2) - 2 * nuclear, 0))


def neighbour_jaccard(a, b, k=10, metric="cosine"):
    found = []
    for i in range(len(a)):
        sets = []
        for x in (a, b):
            if metric == "cosine":
                norms = np.linalg.norm(x, axis=1)
                far = [-(x[i] @ x[j]) / (norms[i] * norms[j]) for j in range(len(x))]
            else:
                far = [np.linalg.norm(x[i] - x[j]) for j in range(len(x))]
            others = sorted((j for j in range(len(x)) if j != i), key=far.__getitem__)
            sets.append(set(others[:k]))
        found.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    return np.mean(found)
