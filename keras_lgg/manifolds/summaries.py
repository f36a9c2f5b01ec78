"""Numbers that summarise many latents, for tables and figures alike."""

import math

import numpy as np


def mean_or_nan(values):
    """The mean; NaN if there are no values."""
    return float(np.mean(values)) if len(values) else math.nan


def median_spectrum(values):
    """Median over the latents of the singular values, each relative to its latent's largest."""
    largest = values[:, :1]
    return np.median(values / np.where(largest > 0, largest, 1), axis=0)
