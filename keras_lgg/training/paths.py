"""Paths of layers: through names and attributes, into nested models and composite layers."""

import difflib
import fnmatch
import re
import zlib
from typing import Any, NamedTuple

import keras

from keras_lgg.training import internals
from keras_lgg.training.calls import watching
from keras_lgg.training.rebuilding import is_graph

FEW = 8  # names of layers that an error shows

# A path, the call that is meant, the output that is meant: "encoder/shared@1:0".
_TAP = re.compile(r"(?P<path>.+?)(?:@(?P<call>\d+))?(?::(?P<output>\w+))?")


def layer_paths(
    model: keras.Model, pattern: str | None = None
) -> dict[str, tuple[int | None, ...]]:
    """All paths of layers that can be tapped in a model, with the shapes that they return.

    The model is traced once, without data.

    Args:
        model: Any Keras model that knows its input shape: Functional, Sequential, or a subclass
            that was built or called.
        pattern: Keep only the paths that match it, as file names would: ``"stage*_out"`` or
            ``"encoder/block_?"``. ``*`` also matches ``/``. ``None`` keeps all.

    Returns:
        Dict from each path to a shape, in the order in which the layers return. A layer that is
        called several times has one path per call, such as ``"shared@1"``; a layer with several
        outputs has one per output, such as ``"lstm:0"``. Layers that run inside a loop, a
        condition, or a block that is compiled separately or rematerialised are not listed.

    Raises:
        ValueError: If the model does not know its input shape.

    Example:
        >>> import keras, keras_lgg as lgg
        >>> inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="b")], name="a")
        >>> model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2, name="c")])
        >>> lgg.layer_paths(model)
        {'a/b': (None, 3), 'a': (None, 3), 'c': (None, 2)}
        >>> list(lgg.layer_paths(model, "a/*"))
        ['a/b']
    """
    shapes = _traced_shapes(model)
    return {
        path: shape
        for path, shape in shapes.items()
        if pattern is None or fnmatch.fnmatchcase(path, pattern)
    }


class Place(NamedTuple):
    """What a tap sees.

    Attributes:
        layer: The layer, or model, whose calls are watched.
        call: Which call, from 0; ``None`` where there must be one.
        output: Which output, an index or a key; ``None`` where there must be one.
        input: Which input of the model, instead of an output.
        around: The layers around it, along its path.
    """

    layer: keras.layers.Layer
    call: int | None = None
    output: int | str | None = None
    input: int | None = None
    around: tuple[keras.layers.Layer, ...] = ()


def paths_of(model: keras.Model, tap: Any) -> list[str]:
    """The paths that a path, a pattern of paths or a layer of the model stands for.

    Raises:
        ValueError: If the layer is not in the model, or the pattern matches no path.
    """
    if isinstance(tap, keras.layers.Layer):
        for path, layer in _all_layers(model).items():
            if layer is tap:
                return [path]
        raise ValueError(
            f"The layer '{tap.name}' cannot be tapped. Expected a layer of the model "
            f"'{model.name}'. Received: one that is not in it."
        )
    if not isinstance(tap, str):
        raise ValueError(
            f"Invalid tap in the model '{model.name}'. Expected the path of a layer, a pattern of "
            f"paths, or a layer. Received: {tap!r}."
        )
    if not any(sign in tap for sign in "*?["):
        return [tap]
    found = list(layer_paths(model, tap))
    if not found:
        raise ValueError(
            f"The pattern '{tap}' matches no layer of the model '{model.name}'. Expected one that "
            f"matches {_shown(model, tap)}. Received: '{tap}'. See lgg.layer_paths(model)."
        )
    return found


def place_of(model: keras.Model, tap: str) -> Place:
    """The place to which a path leads.

    Raises:
        ValueError: If there is no such layer, or if the graph shows that it is called several times
            or has several outputs and the path does not say which is meant.
    """
    found = _follow(model, tap)
    parts: dict[str, str | None] = {}
    if found is None:
        parts = _parts(tap)
        found = _follow(model, parts["path"])
    if found is None:
        raise ValueError(_unknown(model, tap))
    place, calls, outputs = found
    call, output = parts.get("call"), parts.get("output")
    if output is not None:
        place = place._replace(output=int(output) if output.isdigit() else output)
    if call is not None:
        place = place._replace(call=int(call))
    check_call(model, tap, place, calls)
    if outputs is not None and place.output is None and place.input is None:
        check_output(tap, outputs)
    return place


def check_call(model, tap, place, calls):
    """Raise if a tap does not say which call of its layer it means."""
    if calls is None or (calls == 1 and place.call is None):
        return
    if calls == 0:
        raise ValueError(
            f"The tap '{tap}' saw nothing. Expected a layer that '{model.name}' calls in its "
            "forward pass. Received: one that was not called there, or only inside a block that is "
            "compiled separately or rematerialised. See lgg.layer_paths(model)."
        )
    if place.call is None:
        raise ValueError(
            f"The tap '{tap}' is ambiguous. Expected a layer that runs once. Received: a layer "
            f"that '{model.name}' calls {calls} times. Say which call you mean: '{tap}@0' to "
            f"'{tap}@{calls - 1}'."
        )
    if place.call >= calls:
        raise ValueError(
            f"The tap '{tap}' saw nothing. Expected a call from 0 to {calls - 1}, of a layer "
            f"that '{model.name}' calls {calls} times. Received: call {place.call}."
        )


def check_output(tap, outputs):
    """Raise if a tap does not say which output of its layer it means."""
    if len(outputs) != 1:
        raise ValueError(
            f"The tap '{tap}' is ambiguous. Expected a layer with one output. Received: a layer "
            f"with {len(outputs)}. Say which you mean: "
            f"{', '.join(f'{tap}:{key}' for key in outputs)}."
        )


def output_keys(outputs):
    """The names of a layer's outputs after ``:``, positions or keys."""
    if isinstance(outputs, dict):
        return list(outputs)
    return list(range(len(keras.tree.flatten(outputs))))


def output_at(outputs, key):
    """The output at a position or a key; a KeyError or an IndexError if there is none."""
    return outputs[key] if isinstance(outputs, dict) else keras.tree.flatten(outputs)[int(key)]


def has_path(model: keras.Model, tap: str) -> bool:
    """Whether a path leads to a layer of a model."""
    return (_follow(model, tap) or _follow(model, _parts(tap)["path"])) is not None


def position_of(model: keras.Model, tap: str) -> list[list[int]]:
    """Where the layers along a path stand, for a model that may rename them.

    For each, its index among its siblings and a digest of the siblings' names.
    """
    position: list[list[int]] = []
    container: keras.layers.Layer = model
    for part in tap.split("/"):
        siblings = children(container)
        layer = _child(container, part) or _child(container, _parts(part)["path"])
        if layer is None:
            break
        index = next((i for i, each in enumerate(siblings.values()) if each is layer), -1)
        position.append([index, _digest(siblings)])
        container = layer
    return position


def path_at(model: keras.Model, tap: str, position: list[list[int]]) -> str:
    """The path of the layer that had the path ``tap`` when its position was taken.

    If the siblings still have the same names, names count, otherwise places.
    """
    parts, container = tap.split("/"), model
    for level, (index, digest) in enumerate(position):
        siblings = children(container)
        name = _parts(parts[level])["path"]
        if digest != _digest(siblings) and 0 <= index < len(siblings):
            parts[level] = list(siblings)[index] + parts[level][len(name) :]
            name = list(siblings)[index]
        container = _child(container, parts[level]) or _child(container, name)
        if container is None:
            return tap
    return "/".join(parts)


def _parts(tap):
    """A tap as its path, call and output; the latter are ``None`` where it does not say."""
    matched = _TAP.fullmatch(tap)
    return {"path": tap} if matched is None else matched.groupdict()


def children(container: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """The layers directly inside a model or a layer, each by a unique name."""
    layers = [
        layer
        for layer in {id(layer): layer for layer in internals.sublayers_of(container)}.values()
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    names = [layer.name for layer in layers]
    attributes = _attributes(container)
    found: dict[str, keras.layers.Layer] = {}
    for layer in layers:
        name = layer.name
        if names.count(name) > 1:
            name = next((key for key, value in attributes.items() if value is layer), name)
        if found.setdefault(name, layer) is not layer:
            found[f"{name}.{len(found)}"] = layer
    return found


def _attributes(container):
    """The layers in the attributes of a layer, by ``"name"``, or ``"name.0"`` in a list."""
    found = {}
    for name, value in internals.attributes_of(container).items():
        if isinstance(value, keras.layers.Layer):
            found[name] = value
        elif isinstance(value, list | tuple | dict):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, each in pairs:
                if isinstance(each, keras.layers.Layer):
                    found[f"{name}.{key}"] = each
    return {name: layer for name, layer in found.items() if not name.startswith("_functional")}


def _child(container, component):
    return children(container).get(component) or _attributes(container).get(component)


def _follow(model, path):
    """The place at the end of a path, and how often and with which outputs the graph calls it.

    ``None`` if a name is unknown; the numbers are ``None`` if no graph shows them.
    """
    container, calls, around = model, 1, ()
    *others, last = path.split("/")
    for component in others:
        layer = _child(container, component)
        if layer is None:
            return None
        calls = _times(calls, _calls_in_graph(container, layer))
        container, around = layer, (*around, layer)
    layer = _child(container, last)
    if layer is not None:
        nodes = internals.nodes_of(container, layer)
        outputs = None if not nodes else list(range(len(nodes[0].outputs)))
        return (
            Place(layer, around=around),
            _times(calls, _calls_in_graph(container, layer)),
            outputs,
        )
    port = _port(container, last)
    return None if port is None else (port, calls, None)


def _port(container, name):
    """The input or output of a model with this name."""
    if not is_graph(container):
        return None
    for index, names in enumerate(internals.input_names(container)):
        if name in names:
            return Place(container, input=index)
    outputs = {} if isinstance(container, keras.Sequential) else container.output
    is_key = isinstance(outputs, dict) and name in outputs
    return Place(container, output=name) if is_key else None


def _times(calls, more):
    return None if calls is None or more is None else calls * more


def _calls_in_graph(container, layer):
    return len(internals.nodes_of(container, layer)) or None


def _all_layers(model, prefix="", around=()):
    """Every layer of a model by its path; models and composite layers precede what they hold."""
    found = {}
    for component, layer in children(model).items():
        if any(layer is each for each in around):  # a layer that holds the one around it
            continue
        found[prefix + component] = layer
        found.update(_all_layers(layer, f"{prefix}{component}/", (*around, model)))
    return found


def _traced_shapes(model):
    """The shapes that the layers of a model return, by tap, in the order in which they return."""
    recording = traced(model)
    by_layer = {}
    for path, layer in _all_layers(model).items():
        by_layer.setdefault(id(layer), path)
    counts = {}
    shapes = {}
    for layer, outputs in recording:
        path, index = by_layer[id(layer)], counts.setdefault(id(layer), 0)
        counts[id(layer)] += 1
        several = sum(other is layer for other, _ in recording) > 1
        keys = output_keys(outputs)
        for key in keys:
            tap = path + (f"@{index}" if several else "") + (f":{key}" if len(keys) > 1 else "")
            tensor = output_at(outputs, key)
            if hasattr(tensor, "shape"):
                shapes[tap] = tuple(tensor.shape)
    return shapes


def traced(model: keras.Model) -> list[tuple[keras.layers.Layer, Any]]:
    """The layers of a model in the order in which they return, with their symbolic outputs."""
    layers = list(_all_layers(model).values())
    order: list[keras.layers.Layer] = []

    def call(*inputs):
        with watching(layers, lenient=True) as recording:
            inference(model, *inputs)
        order[:] = [layer for layer, _ in recording.order]
        return [_untracked(call.outputs) for _, call in recording.order]

    inputs = internals.symbolic_inputs(model)
    if inputs is None:
        raise ValueError(
            f"The layers of '{model.name}' cannot be listed yet. Expected a model that knows its "
            "input shape. Received: one that has not been built. Call it on a batch first."
        )
    outputs = internals.symbolic_outputs(call, *inputs)
    return list(zip(order, outputs, strict=True))


def _untracked(outputs):
    """Outputs in plain dicts: JAX does not know those in which Keras keeps a model's outputs."""
    if isinstance(outputs, dict):
        return {key: _untracked(value) for key, value in outputs.items()}
    return outputs


def inference(model, *args):
    """Call a model in inference mode, whether or not it has one."""
    return model(*args, **internals.modes(model, False))


def _unknown(model, tap):
    return (
        f"Unknown tap '{tap}' in the model '{model.name}'.{_hint(model, tap)} Expected "
        f"{_shown(model, tap)}. Received: '{tap}'. See lgg.layer_paths(model)."
    )


def _hint(model, tap):
    known = list(_all_layers(model))
    inside = [path for path in known if path.endswith("/" + tap)]
    near = inside or difflib.get_close_matches(tap, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _shown(model, tap):
    """The names of the layers, or if there are many, those most like a tap."""
    known = list(_all_layers(model))
    if is_graph(model) and not isinstance(model, keras.Sequential):
        known = [tensor.name for tensor in model.inputs] + known
    if len(known) <= FEW:
        return f"one of its layers: {known}"
    near = difflib.get_close_matches(tap, known, n=FEW, cutoff=0.0)
    return f"one of its {len(known)} layers, such as {near}"


def _digest(siblings):
    return zlib.crc32("|".join(sorted(siblings)).encode())
