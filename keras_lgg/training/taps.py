"""Taps: the outputs of intermediate layers, from the same forward pass as the model's outputs."""

import contextlib
import difflib
import inspect
import operator

import keras
from keras import ops


def tapped_model(model, paths):
    """A model that returns the outputs of ``model`` and the outputs of some of its layers.

    The result shares every layer, and so every weight, with ``model``. Nested models are
    entered, not copied: a layer inside one is named by its path.

    Args:
        model: Functional or Sequential model with a known input shape.
        paths: Names of layers, such as ``"block3"``, or ``"backbone/block3"`` for the layer
            ``block3`` of the nested model ``backbone``.

    Returns:
        A `keras.Model` of the same inputs, which returns ``(outputs, taps)``; ``taps`` is a dict
        from each path to the output of that layer.

    Raises:
        ValueError: If a layer cannot be tapped: an unknown name, a model or a nested model that
            is not a graph of layers, a layer that runs several times or returns several tensors.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg.training.taps import tapped_model
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        ... )
        >>> outputs, taps = tapped_model(model, ["hidden"])(np.zeros((5, 4), "float32"))
        >>> tuple(outputs.shape), tuple(taps["hidden"].shape)
        ((5, 2), (5, 3))
    """
    captured = {}

    def capture(path, tensors):
        captured.setdefault(path, []).append(tensors)
        return tensors

    def enter(layer, inner_paths, *args, **kwargs):
        outputs, taps = tapped_model(layer, inner_paths)(*args, **kwargs)
        for path, tensor in taps.items():
            capture(f"{layer.name}/{path}", tensor)
        return outputs

    rerun = _rerun(model, paths, at=capture, enter=enter)
    for tensor in rerun.inputs:
        if tensor.name in paths:
            capture(tensor.name, tensor)
    taps = {path: _single(model, path, captured.get(path, [])) for path in paths}
    return keras.Model(rerun.input, (_unpack(rerun.output), taps), name=model.name)


def edited_model(model, edits):
    """A model like ``model``, in which the outputs of some layers pass through functions.

    The result shares every layer, and so every weight, with ``model``, which stays as it was.

    Args:
        model: Functional or Sequential model with a known input shape.
        edits: Dict from the path of a layer (see `tapped_model`) to a function, or a layer, that
            takes the output of that layer and returns a tensor of the same shape.

    Returns:
        A `keras.Model` of the same inputs and outputs.

    Raises:
        ValueError: If a path cannot be tapped, or is that of an input.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg.training.taps import edited_model
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        ... )
        >>> silent = edited_model(model, {"hidden": keras.ops.zeros_like})
        >>> keras.ops.convert_to_numpy(silent(np.ones((1, 4), "float32"))).tolist()
        [[0.0, 0.0]]
    """
    tapped = tapped_model(model, list(edits))  # raises where a path stands for no single tensor
    for tensor in tapped.inputs:
        if tensor.name in edits:
            raise ValueError(
                f"The input '{tensor.name}' of the model '{model.name}' cannot be edited. Expected "
                f"a layer. Received: '{tensor.name}'. Change what you call the model with."
            )

    def edit(path, tensors):
        return keras.tree.map_structure(edits[path], tensors)

    def enter(layer, inner_paths, *args, **kwargs):
        inner_edits = {path: edits[f"{layer.name}/{path}"] for path in inner_paths}
        return edited_model(layer, inner_edits)(*args, **kwargs)

    rerun = _rerun(model, edits, at=edit, enter=enter)
    return keras.Model(rerun.input, _unpack(rerun.output), name=model.name)


def layer_paths(model, prefix=""):
    """Paths of all layers of a model that can be tapped, nested ones after their model.

    Example:
        >>> import keras
        >>> from keras_lgg.training.taps import layer_paths
        >>> inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="b")], name="a")
        >>> layer_paths(keras.Sequential([keras.Input((4,)), inner]))
        ['a', 'a/b']
    """
    paths = []
    for layer in model.layers:
        paths.append(prefix + layer.name)
        if is_graph(layer):
            paths += layer_paths(layer, f"{prefix}{layer.name}/")
    return paths


def layers_of(model, kind):
    """The layers of a class in a model, those of its layers included."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


def is_graph(model):
    """Whether a model is a graph of layers: Functional, or Sequential with an input shape."""
    return isinstance(model, keras.Model) and getattr(model, "inputs", None) is not None


def rebuilt(model, replace, wanted, *, inputs_of=operator.attrgetter("input")):
    """A model like ``model``, in which others stand in place of some layers.

    The result shares all other layers, and so their weights, with ``model``.

    Args:
        model: Functional or Sequential model with a known input shape.
        replace: Function ``replace(layer, call)`` that returns what is called in place of a
            layer, or the layer itself; ``call(layer, *args, **kwargs)`` calls a further layer,
            or what stands in its place. It is asked once about each layer.
        wanted: What the model is rebuilt for, which begins the errors.
        inputs_of: Function from the rebuilt model to those of its inputs that stay.

    Returns:
        A `keras.Model`.
    """
    replaced = {}  # a layer that is called twice is one layer

    def call(layer, *args, **kwargs):
        if layer not in replaced:
            replaced[layer] = replace(layer, call)
        return replaced[layer](*args, **kwargs)

    graph = called_anew(model, call, wanted)
    outputs = graph.outputs[0] if isinstance(model, keras.Sequential) else graph.output
    result = keras.Model(inputs_of(graph), outputs, name=model.name)
    result(result.input)  # Keras exports to ONNX only what has been called
    return result


def called_anew(model, call, wanted):
    """The graph of a model, each layer of which is called by ``call(layer, *args, **kwargs)``.

    Nothing is copied. ``wanted`` begins the errors, see `graph_of`.
    """
    # With `lambda layer: layer` nothing is cloned.
    return keras.models.clone_model(
        graph_of(model, wanted), clone_function=lambda layer: layer, call_function=call
    )


def graph_of(model, wanted):
    """A plain Functional model over the layers of ``model``; ``wanted`` begins the errors."""
    if not is_graph(model):
        if isinstance(model, keras.Sequential):
            raise ValueError(
                f"{wanted} of the Sequential model '{model.name}' cannot be reached yet. Expected "
                "a model that knows its input shape. Received: one that has not been built. Start "
                "it with keras.Input(shape), or call model.build(input_shape) first."
            )
        kind = type(model).__name__
        raise ValueError(
            f"{wanted} of '{model.name}' cannot be reached. Expected a Functional "
            f"or Sequential model, whose layers form a graph. Received: a {kind}, whose "
            "call() is Python code that a tap cannot look into. Rebuild it with the functional "
            "API (keras.Model(inputs, outputs)), or put a keras_lgg.layers.GeometryPenalty inside "
            "its call()."
        )
    if isinstance(model, keras.Sequential):  # whose `input` is that of its caller
        graph, plain = keras.Model(model.inputs[0], model.outputs), keras.Sequential
    else:
        graph = keras.Model(model.input, model.output)
        plain = type(graph)
    if type(model).call is not plain.call:
        raise ValueError(
            f"{wanted} of '{model.name}' cannot be reached. Expected a Functional "
            f"or Sequential model as it comes. Received: a {type(model).__name__}, which overrides "
            "call(): its code would be passed over. Move that code into a layer of the graph."
        )
    return graph


class Untracked:
    """A model with its tapped twin, out of sight of Keras, which tracks models in attributes."""

    def __init__(self, model, tapped):
        self.model = model
        self._tapped = tapped

    @classmethod
    def of(cls, model, paths):
        unique = list(dict.fromkeys(paths))
        return cls(model, tapped_model(model, unique) if unique and model is not None else None)

    def __bool__(self):
        return self._tapped is not None

    def __call__(self, inputs, training=None):
        return self._tapped(inputs, training=training)

    def infer(self, inputs):
        """``(outputs, taps)`` in inference mode, with no gradient and no trace in the model.

        `stateless_call` leaves the states and the `add_loss` losses of the layers as they were.
        """
        runner = self._tapped or self.model
        takes_training = "training" in inspect.signature(runner.call).parameters
        with _no_gradient():
            result, _ = runner.stateless_call(
                [v.value for v in runner.trainable_variables],
                [v.value for v in runner.non_trainable_variables],
                inputs,
                **({"training": False} if takes_training else {}),
            )
        result = keras.tree.map_structure(ops.stop_gradient, result)
        return result if self else (result, {})


def _rerun(model, paths, *, at, enter):
    """The layers of ``model`` called once more, symbolically, as a new Functional model.

    What the layer of a path returns goes through ``at(path, outputs)``; ``enter(layer, paths,
    *args)`` stands in for the call of a nested model with paths inside.
    """
    inner_paths = {}
    for path in paths:
        head, _, rest = path.partition("/")
        if rest:
            inner_paths.setdefault(head, []).append(rest)

    def call(layer, *args, **kwargs):
        if layer.name in inner_paths:
            outputs = enter(layer, inner_paths[layer.name], *args, **kwargs)
        else:
            outputs = layer(*args, **kwargs)
        return at(layer.name, outputs) if layer.name in paths else outputs

    return called_anew(model, call, f"The layers {list(paths)}")


def _single(model, path, outputs):
    """The one tensor that a tap stands for."""
    if not outputs:
        raise ValueError(_unknown(model, path))
    if len(outputs) > 1:
        raise ValueError(
            f"The tap '{path}' is ambiguous. Expected a layer that runs once. Received: a layer "
            f"that '{model.name}' calls {len(outputs)} times. Put a "
            "keras.layers.Identity(name=...) behind the call that you mean, and tap that."
        )
    tensors = keras.tree.flatten(outputs[0])
    if len(tensors) != 1:
        raise ValueError(
            f"The tap '{path}' is ambiguous. Expected a layer with one output. Received: a layer "
            f"with {len(tensors)}. Put a keras.layers.Identity(name=...) behind the output "
            "that you mean, and tap that."
        )
    return tensors[0]


def _unknown(model, path):
    known = layer_paths(model)
    near = difflib.get_close_matches(path, known, n=1)
    inside = [name for name in known if name.endswith("/" + path)]
    hint = f" Did you mean '{(inside or near)[0]}'?" if inside or near else ""
    return (
        f"Unknown tap '{path}' in the model '{model.name}'.{hint} Expected one of its layers: "
        f"{known}. Received: '{path}'."
    )


def _unpack(outputs):
    """What calling a Functional model returns for the output structure it was made with."""
    is_singleton = isinstance(outputs, list | tuple) and len(outputs) == 1
    return outputs[0] if is_singleton else outputs


def _no_gradient():
    """A context in which PyTorch keeps no graph; elsewhere `stop_gradient` prunes it all."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()
