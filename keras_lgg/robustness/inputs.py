"""What a classifier is given: pixels, token ids, texts, or several inputs."""

from collections.abc import Mapping

import numpy as np

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array

# Each kind in words, for errors.
KINDS = {
    "pixels": "images",
    "ids": "token ids",
    "texts": "texts",
    "several": "several inputs (a dict or a list)",
}


def checked_data(data):
    """The inputs and the labels, of shape (n,).

    Images come out as float32 in [0, 1], token ids as integers, texts as an array of ``str``, and
    a dict or list of arrays as it went in, but with floats as float32.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise checks.invalid("data", "a pair (images, labels)", type(data).__name__)
    labels = host_array("data", data[1], "integer labels of shape (n,)")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        received = f"labels of {labels.dtype} and of shape {labels.shape}"
        raise checks.invalid("data", "integer labels of shape (n,)", received)
    n = len(labels)
    if _are_several(data[0], n):
        return each(lambda x: _one_of_several(x, n), data[0]), labels
    if _are_texts(data[0]):
        return _checked_texts(data[0], n), labels
    return _checked_array(data[0], n), labels


def kind_of(inputs):
    """Which of the kinds these checked inputs are."""
    if isinstance(inputs, dict | list):
        return "several"
    if inputs.dtype == object:
        return "texts"
    return "pixels" if inputs.dtype == np.float32 else "ids"


def each(function, inputs):
    """Apply a function to each of the arrays, or to the only one."""
    if isinstance(inputs, Mapping):
        return {name: function(x) for name, x in inputs.items()}
    if isinstance(inputs, list | tuple):
        return [function(x) for x in inputs]
    return function(inputs)


def arrays(inputs):
    """The arrays, as a list."""
    if isinstance(inputs, dict):
        return list(inputs.values())
    return inputs if isinstance(inputs, list) else [inputs]


def rows(inputs, start, stop):
    """Samples from one index to another."""
    return each(lambda x: x[start:stop], inputs)


def filled(inputs, size):
    """A batch, filled up with its first sample."""
    return each(lambda x: np.concatenate([x, np.repeat(x[:1], size - len(x), 0)]), inputs)


def tokenized(texts, tokenizer):
    """What the model takes, from texts."""
    expected = "a function from an array of texts to numbers of shape (n, ...), or a dict of them"
    made = tokenizer(texts)
    if not isinstance(made, Mapping) and not _are_several(made, len(texts)):
        made = _numbers("tokenizer", made, expected)
    made = each(lambda x: _numbers("tokenizer", x, expected), made)
    lengths = [x.shape[0] if x.ndim else 0 for x in arrays(made)]
    if set(lengths) != {len(texts)}:
        received = f"one that makes {lengths} rows of {len(texts)} texts"
        raise checks.invalid("tokenizer", expected, received)
    return made


def _numbers(argument, x, expected):
    x = host_array(argument, x, expected)
    return x.astype("float32") if np.issubdtype(x.dtype, np.floating) else x


def _are_several(inputs, n):
    """Whether these are several inputs; n arrays in a list are n samples."""
    if isinstance(inputs, Mapping):
        return True
    is_list = isinstance(inputs, list | tuple) and len(inputs) not in (0, n)
    return is_list and all(len(getattr(x, "shape", ())) > 0 for x in inputs)


def _one_of_several(x, n):
    expected = "inputs that are arrays of shape (n, ...), and a label for each sample"
    x = _numbers("data", x, expected)
    if x.dtype == np.uint8:
        expected = "pixels as floats in [0, 1], and ids and masks as int32, among several inputs"
        raise checks.invalid("data", expected, "an input of uint8, which may be either")
    if x.ndim < 1 or len(x) != n or x.size == 0:
        raise checks.invalid("data", expected, f"an input of shape {x.shape} and {n} labels")
    return x


def _are_texts(inputs):
    if isinstance(inputs, np.ndarray):
        return inputs.dtype.kind in "SUT" or (
            inputs.dtype == object and inputs.size > 0 and isinstance(inputs.flat[0], str | bytes)
        )
    return isinstance(inputs, list | tuple) and any(isinstance(x, str | bytes) for x in inputs)


def _checked_texts(texts, n):
    flat = np.ravel(np.asarray(texts, object))
    found = np.empty(len(flat), object)
    found[:] = [text.decode() if isinstance(text, bytes) else text for text in flat]
    if np.size(texts) != n or not n or not all(isinstance(text, str) for text in found):
        kinds = sorted({type(text).__name__ for text in found})
        received = f"{len(found)} of {', '.join(kinds)} and {n} labels"
        raise checks.invalid("data", "texts of shape (n,), and a label for each", received)
    return found


def _checked_array(given, n):
    array = host_array("data", given, "images of shape (n, ...), token ids (n, T), or texts")
    if array.ndim < 2 or len(array) != n or array.size == 0:
        received = f"{array.shape} images and {n} labels"
        raise checks.invalid("data", "images of shape (n, ...), and a label for each", received)
    is_ids = array.ndim == 2 and array.dtype.kind in "iu" and array.dtype != np.uint8
    return array if is_ids else checks.unit_pixels("data", array)
