"""Numbers that stand for many latents, in the tables and figures alike."""

import math

import numpy as np


def mean_or_nan(values):
    """The mean, NaN of nothing."""
    return float(np.mean(values)) if len(values) else math.nan


def median_spectrum(values):
    """Median over the latents of the singular values, relative to the largest of each."""
    largest = values[:, :1]
    return np.median(values / np.where(largest > 0, largest, 1), axis=0)
