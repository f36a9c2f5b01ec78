"""Taps: the outputs of intermediate layers, from the same forward pass as the model's outputs."""

import difflib

import keras


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
        >>> from keras_lgg.taps import tapped_model
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        ... )
        >>> outputs, taps = tapped_model(model, ["hidden"])(np.zeros((5, 4), "float32"))
        >>> tuple(outputs.shape), tuple(taps["hidden"].shape)
        ((5, 2), (5, 3))
    """
    captured = {}
    graph = _graph_of(model, paths)
    inner_paths = {}
    for path in paths:
        head, _, rest = path.partition("/")
        if rest:
            inner_paths.setdefault(head, []).append(rest)

    def call(layer, *args, **kwargs):
        if layer.name in inner_paths:
            inner = tapped_model(layer, inner_paths[layer.name])
            outputs, taps = inner(*args, **kwargs)
            for path, tensor in taps.items():
                captured.setdefault(f"{layer.name}/{path}", []).append(tensor)
        else:
            outputs = layer(*args, **kwargs)
        if layer.name in paths:
            captured.setdefault(layer.name, []).append(outputs)
        return outputs

    # With `lambda layer: layer` nothing is cloned: the layers are called once more, symbolically.
    rerun = keras.models.clone_model(graph, clone_function=lambda layer: layer, call_function=call)
    for tensor in rerun.inputs:
        if tensor.name in paths:
            captured.setdefault(tensor.name, []).append(tensor)
    taps = {path: _single(model, path, captured.get(path, [])) for path in paths}
    return keras.Model(rerun.input, (_unpack(rerun.output), taps), name=model.name)


def layer_paths(model, prefix=""):
    """Paths of all layers of a model that can be tapped, nested ones after their model.

    Example:
        >>> import keras
        >>> from keras_lgg.taps import layer_paths
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


def is_graph(model):
    """Whether a model is a graph of layers: Functional, or Sequential with an input shape."""
    return isinstance(model, keras.Model) and getattr(model, "inputs", None) is not None


def _graph_of(model, paths):
    """A plain Functional model over the layers of ``model``."""
    if not is_graph(model):
        if isinstance(model, keras.Sequential):
            raise ValueError(
                f"The layers {list(paths)} of the Sequential model '{model.name}' cannot be tapped "
                "yet. Expected a model that knows its input shape. Received: one that has not been "
                "built. Start it with keras.Input(shape), or call model.build(input_shape) first."
            )
        kind = type(model).__name__
        raise ValueError(
            f"The layers {list(paths)} of '{model.name}' cannot be tapped. Expected a Functional "
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
            f"The layers {list(paths)} of '{model.name}' cannot be tapped. Expected a Functional "
            f"or Sequential model as it comes. Received: a {type(model).__name__}, which overrides "
            "call(): its code would be passed over. Move that code into a layer of the graph."
        )
    return graph


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
