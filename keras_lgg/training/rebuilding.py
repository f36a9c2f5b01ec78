"""Graphs of layers, rebuilt with some of the layers replaced."""

import operator

import keras


def layers_of(model, kind):
    """The layers of a class in a model, including those inside other layers."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


def is_graph(model):
    """Whether a model is a graph of layers: Functional, or Sequential with an input shape."""
    return isinstance(model, keras.Model) and getattr(model, "inputs", None) is not None


def rebuilt(model, replace, wanted, *, inputs_of=operator.attrgetter("input")):
    """A model like ``model``, with some of its layers replaced.

    The result shares all other layers, and so their weights, with ``model``.

    Args:
        model: Functional or Sequential model with a known input shape.
        replace: Function ``replace(layer, call)`` that returns what to call instead of a layer, or
            the layer itself; ``call(layer, *args, **kwargs)`` calls another layer, or its
            replacement. It is called once for each layer.
        wanted: What the model is rebuilt for, the first words of the errors.
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
    """The graph of a model, with each layer called by ``call(layer, *args, **kwargs)``.

    Nothing is copied. ``wanted`` starts the errors, see `graph_of`.
    """
    # With `lambda layer: layer` nothing is cloned.
    return keras.models.clone_model(
        graph_of(model, wanted), clone_function=lambda layer: layer, call_function=call
    )


def graph_of(model, wanted):
    """A plain Functional model over the layers of ``model``; ``wanted`` starts the errors."""
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
            "call(): its code would be ignored. Move that code into a layer of the graph."
        )
    return graph
