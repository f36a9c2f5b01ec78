"""What encoders take: an array, or a dict, tuple or list of several; numbers or strings.

As in Keras, a list of arrays is a list of inputs. A list of anything else is one array.
"""

import operator

import keras
import numpy as np
from keras import ops

from keras_lgg.checks import invalid
from keras_lgg.graphs.arrays import given_array
from keras_lgg.training import internals
from keras_lgg.training.rebuilding import is_graph

INPUTS = "inputs of the encoder: an array (n, ...), or a dict, tuple or list of such arrays"


def of_arrays(x):
    """Inputs in which each list of strings is an array of strings."""
    if isinstance(x, list) and x and all(isinstance(each, str | bytes) for each in x):
        return np.array(x, object)
    if isinstance(x, dict):
        return {key: of_arrays(each) for key, each in x.items()}
    return tuple(map(of_arrays, x)) if type(x) is tuple else x


def is_structure(x):
    """Whether these are several inputs, rather than one array or a list of rows."""
    x = of_arrays(x)
    if isinstance(x, dict | tuple):
        return bool(x) and all(map(_is_array, keras.tree.flatten(x)))
    if not isinstance(x, list) or not x or not all(map(_is_array, x)):
        return False
    return any(len(each.shape) > 1 or is_text(each) for each in x)


def leaves_of(argument, x):
    """Dict from the name of each array of a structure, as one would write it, to the array."""
    x = of_arrays(x)
    if not is_structure(x):
        return {argument: x}
    named = {}
    for path, leaf in keras.tree.flatten_with_path(x):
        named[argument + "".join(f"[{key!r}]" for key in path)] = leaf
    return named


def sample_count(argument, x):
    """The number of samples, which must be the same in each array of a structure."""
    counts = {name: _count(name, leaf) for name, leaf in leaves_of(argument, x).items()}
    (first, n), *others = counts.items()
    for name, m in others:
        if n != m:
            raise ValueError(
                f"The arrays of `{argument}` are of different samples. Expected the same number in "
                f"each, row i of all being one sample, such as a sentence and its mask or its "
                f"translation. Received: {n} in {first} and {m} in {name}."
            )
    return n


def host_inputs(argument, x):
    """Inputs as NumPy arrays of numbers or of strings, in their structure."""
    x = of_arrays(x)
    if not is_structure(x):
        return _on_host(argument, x)
    leaves = [_on_host(name, leaf) for name, leaf in leaves_of(argument, x).items()]
    return keras.tree.pack_sequence_as(x, leaves)


def rows_of(x, rows):
    """Some of the samples of inputs, in their structure."""
    return keras.tree.map_structure(operator.itemgetter(rows), of_arrays(x))


def for_model(x):
    """Inputs as `predict` takes them: strings as arrays of objects."""

    def taken(leaf):
        return leaf.astype(object) if isinstance(leaf, np.ndarray) and is_text(leaf) else leaf

    return keras.tree.map_structure(taken, of_arrays(x))


def is_text(x):
    """Whether an array or tensor holds strings."""
    if isinstance(x, np.ndarray):
        if x.dtype.kind != "O":
            return x.dtype.kind in "US"
        return x.size > 0 and all(isinstance(s, str | bytes) for s in x.flat)
    dtype = getattr(x, "dtype", None)
    return "string" in (dtype, getattr(dtype, "name", None))


def check_text():
    """Raise on backends without strings."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            "Strings run on TensorFlow alone. Expected numbers, such as the ids of tokens. "
            f"Received: strings, on the backend '{backend}'. Tokenise them first, with "
            "keras.layers.TextVectorization(...)(texts) outside of the model, and give the encoder "
            "the ids."
        )


def check_is_one(encoded):
    """Raise if an encoder returned several outputs."""
    if not hasattr(encoded, "shape"):
        expected = "one output; for a model with more, pass keras.Model(model.input, one of them)"
        raise invalid("encoder", expected, type(encoded).__name__)


def check_vocabulary(argument, model, x):
    """Raise if ids are beyond the vocabulary of an embedding that takes them."""
    flat = _in_order(argument, model, x)
    for index, layer in _embeddings(model):
        name, ids = flat[index] if index < len(flat) else (None, None)
        if ids is None or is_text(ids) or 0 in ids.shape:
            continue
        ids = ops.convert_to_numpy(ids) if ops.is_tensor(ids) else np.asarray(ids)
        if ids.min() < 0 or ids.max() >= layer.input_dim:
            raise ValueError(
                f"The ids in {name} are beyond the vocabulary of '{model.name}'. "
                f"Expected ids in [0, {layer.input_dim}), as its embedding '{layer.name}' has. "
                f"Received: ids from {ids.min()} to {ids.max()}. Give each network the ids of the "
                "tokenizer that it was trained with."
            )


def _in_order(argument, model, x):
    """Pairs of the name and the array of each input of a model, in the model's order."""
    x = of_arrays(x)
    if not isinstance(x, dict) or isinstance(internals.symbolic_input(model), dict | type(None)):
        return list(leaves_of(argument, x).items())
    found = [[name for name in names if name in x] for names in internals.input_names(model)]
    return [(f"{argument}[{n[0]!r}]", x[n[0]]) if n else (None, None) for n in found]


def _embeddings(model):
    """Pairs of the number of an input and an embedding that takes it directly."""
    encoder = getattr(model, "encoder", None)
    if not isinstance(model, keras.Model) and isinstance(encoder, keras.layers.Layer):
        yield from _embeddings(encoder)  # of a RelativeRepresentation
    own = getattr(model, "token_embedding", model)  # the name in layers of KerasHub that hold one
    if isinstance(own, keras.layers.Embedding) and not is_graph(model):
        yield 0, own
    if not is_graph(model):
        return
    inputs = [id(x) for x in model.inputs]
    for layer in internals.sublayers_of(model):
        for node in internals.nodes_of(model, layer):
            fed = [inputs.index(id(x)) if id(x) in inputs else None for x in node.input_tensors]
            for index, inner in _embeddings(layer) if any(i is not None for i in fed) else ():
                if index < len(fed) and fed[index] is not None:
                    yield fed[index], inner


def _is_array(x):
    return hasattr(x, "shape") and hasattr(x, "dtype") and len(x.shape) > 0


def _count(name, leaf):
    shape = getattr(leaf, "shape", None)
    if shape is not None and len(shape):
        return shape[0]
    try:
        return len(leaf)
    except TypeError as error:
        expected = "an array of shape (n, ...), one row a sample"
        raise invalid(name, expected, type(leaf).__name__) from error


def _on_host(argument, x):
    if is_text(x):
        check_text()
        return np.asarray(ops.convert_to_numpy(x) if ops.is_tensor(x) else x)
    x = given_array(argument, x, INPUTS)
    return ops.convert_to_numpy(x) if ops.is_tensor(x) else x
