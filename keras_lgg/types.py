"""The types that recur in the hints of public functions; their docstrings say shapes and dtypes.

A hint imports nothing: packages that may be missing are looked up by type checkers alone, and
are `typing.Any` in a program that runs.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy.typing

# Taken: a tensor of the backend in use, a Keras tensor, an array, or what converts to a tensor.
# Given: a tensor of the backend, or a Keras tensor for a Keras tensor. The backends' types share
# no base, and to name them all would be to import them all.
Tensor: TypeAlias = Any

# What `np.asarray` takes, tensors among it.
ArrayLike: TypeAlias = numpy.typing.ArrayLike

PathLike: TypeAlias = str | os.PathLike[str]

DType: TypeAlias = str | keras.DTypePolicy

# An array or tensor with one row per sample, or a dict, list or tuple of such arrays: what a model
# takes as `x`, or as `y`.
Samples: TypeAlias = Any

# What `fit` trains on: (x, y) or (x, y, sample_weight), or whatever `keras.Model.fit` takes as its
# first argument, such as a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator.
Data: TypeAlias = Any

# A layer of a model: its path, as `keras_lgg.layer_paths` lists it, or the layer itself.
Tap: TypeAlias = str | keras.layers.Layer

# What a penalty looks at: one layer, several along the depth, or (teacher layer, student layer)
# pairs, in which None stands for the output.
Taps: TypeAlias = Tap | Sequence[Tap] | Sequence[tuple[Tap | None, Tap | None]]

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import tensorflow as tf

    DataFrame: TypeAlias = pandas.DataFrame
    Dataset: TypeAlias = tf.data.Dataset
    Figure: TypeAlias = matplotlib.figure.Figure
    Series: TypeAlias = pandas.Series
else:
    DataFrame = Dataset = Figure = Series = Any
