"""The largest entries of many rows, exactly, in about the time of reading them."""

import math

import numpy as np

# One column in this many is looked at first. A prime, so that classes in turn are all among them.
STRIDE = 13
FEW = 64  # how many candidates a row may have beyond twice the number wanted


def largest(rows, k):
    """Columns of the k largest entries of each row, the largest first, of equal ones the first.

    Args:
        rows: Finite or infinite numbers ``(b, m)``, float32.
        k: At most m.

    Returns:
        Indices ``(b, k)``, int64.
    """
    candidates = _candidates(rows, k)
    places = _places(candidates)
    ordered = _sortable(rows, places)
    found = np.empty((len(rows), k), "int64")
    begin = 0
    for row, count in zip(found, _counts(candidates), strict=True):
        part = ordered[begin : begin + count]
        part.sort()
        row[:] = part[:k]
        begin += count
    found &= 0xFFFFFFFF
    found -= rows.shape[1] * np.arange(len(rows))[:, None]
    return found


def _candidates(rows, k):
    """A mask of k entries of each row, or a few more, that include the k largest."""
    sample = rows[:, ::STRIDE]
    share = k / STRIDE
    # Rarely are more of the sample among the k largest: what lies below these can be left out.
    kept = math.ceil(share + 2 * math.sqrt(share)) + 1
    if kept >= sample.shape[1]:
        return np.ones(rows.shape, bool)
    least = np.partition(sample, -kept, axis=1)[:, -kept]
    found = rows >= least[:, None]
    counts = _counts(found)
    for i in np.flatnonzero((counts < k) | (counts > 2 * k + FEW)):
        found[i] = _exactly(rows[i], k)
    return found


def _places(mask):
    """Where a mask is set, in all its rows, flattened."""
    mask = mask.reshape(-1)
    count = np.count_nonzero(mask)
    # If a tenth is set, NumPy takes another path, twice as fast as that for a twentieth.
    more = max(0, mask.size // 9 - count) if count > mask.size // 33 else 0
    return np.flatnonzero(np.concatenate([mask, np.ones(more, bool)]))[:count]


def _counts(mask):
    # Row by row, which is ten times as fast as along an axis.
    return np.array([np.count_nonzero(row) for row in mask])


def _exactly(row, k):
    """A mask of the k largest entries of a row; of equal ones, the first."""
    least = np.partition(row, -k)[-k]
    found = row > least
    found[np.flatnonzero(row == least)[: k - np.count_nonzero(found)]] = True
    return found


def _sortable(rows, places):
    """Integers in the order of largest value first and, for equal values, first place first."""
    values = rows.reshape(-1).take(places)
    values += np.float32(0)  # a negative zero equals the other
    bits = values.view("int32")
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ordered = np.invert(rising, dtype="int64")
    ordered <<= 32
    ordered |= places
    return ordered
