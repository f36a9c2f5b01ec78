"""All that the package uses of the private parts of Keras, in one place."""

import gc
import inspect
import itertools
import warnings

import keras


def is_stateless():
    """Whether variables are being read from, and written to, a stateless scope."""
    return keras.src.backend.common.stateless_scope.in_stateless_scope()


class MovingScope(keras.StatelessScope):
    """A scope in which variables have given values and do not change; it records what would.

    Attributes:
        moved: List of the variables that were assigned a value in it.
        losses: What layers added by `add_loss`.
    """

    def __init__(self, state_mapping):
        super().__init__(state_mapping=state_mapping, collect_losses=True)
        self._moved = {}

    @property
    def moved(self):
        return list(self._moved.values())

    def add_update(self, update):
        self._moved[id(update[0])] = update[0]
        super().add_update(update)


def forget_losses(model, losses):
    """Make the layers of a model forget losses that they added in a scope that has ended."""
    gone = {id(loss) for loss in losses}
    for layer in model._flatten_layers():
        layer._loss_ids -= gone


def no_autocast():
    """A context in which variables are read in their own dtype."""
    return keras.src.backend.AutocastScope(None)


def set_mask(tensor, mask):
    """Make Keras keep a mask with a tensor."""
    keras.src.backend.set_keras_mask(tensor, mask)


def bound(method, model, args, kwargs):
    """The arguments of a call of a Keras method, by name."""
    given = dict(inspect.signature(method).bind(model, *args, **kwargs).arguments)
    return {name: value for name, value in given.items() if name != "self"}


def batch_size(x):
    """How many samples a structure of inputs holds; ``None`` may stand for an input."""
    return keras.ops.shape(next(i for i in keras.tree.flatten(x) if i is not None))[0]


def make_variables(model, iterator):
    """Create the variables that the first training step would create.

    TensorFlow traces a step that creates variables twice, which takes twice as long.

    Args:
        model: A compiled model; nothing happens if one of its layers is not built yet.
        iterator: Iterator over the batches that it will train on.
    """
    if keras.backend.backend() != "tensorflow" or not all(x.built for x in model._flatten_layers()):
        return
    # A loss creates variables only for several outputs: the mean of each.
    has_many = len(getattr(model, "output_names", [])) > 1
    parts = [model._compile_metrics, model._compile_loss if has_many else None]
    unmade = [part for part in parts if part is not None and not part.built]
    if unmade:
        try:
            batch = keras.tree.map_structure(
                lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), iterator.element_spec
            )
        except AttributeError:  # of replicas, for which Keras creates them; or ragged
            return
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        outputs = symbolic_outputs(lambda x: model(x, training=False), x)
        try:
            for each in unmade:
                each.build(y, outputs)
        except (KeyError, ValueError):  # labels that do not fit: the step itself has a better error
            return
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def after_step(model, found):
    """``(logs, value_of)`` from what a training step returned.

    Returns:
        Dict of numbers, and a function from a variable to its value after the step; on JAX, the
        variable itself does not hold it yet.
    """
    if keras.backend.backend() != "jax":
        return found, numpy_of
    logs, state = found
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    values = {
        id(variable): value
        for each, those in zip(variables, state, strict=True)
        for variable, value in zip(each, those, strict=True)
    }
    return logs, lambda x: numpy_of(values.get(id(x), x))


def numpy_of(x):
    """A tensor or variable as an array, without NumPy's warnings about the backend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return keras.ops.convert_to_numpy(x)


def compiled_metrics(model):
    """The metrics that ``compile`` was given: names, functions and metric objects."""
    compiled = getattr(model, "_compile_metrics", None)
    given = [getattr(compiled, name, None) for name in ("_user_metrics", "_user_weighted_metrics")]
    return [metric for metric in keras.tree.flatten(given) if metric is not None]


def entry_model():
    """The outermost model whose call is running, or ``None``."""
    context = keras.src.backend.common.global_state.get_global_attribute("current_call_ctx")
    layer = None if context is None else context.entry_layer
    return layer if isinstance(layer, keras.Model) else None


def training_models_of(variable):
    """The models that are training on JAX at this moment and hold a variable."""
    return [
        model
        for model in gc.get_objects()
        if issubclass(type(model), keras.Model)  # isinstance() may run foreign code
        and getattr(model, "_jax_state", None)
        and any(v is variable for v in model.variables)
    ]


def symbolic_outputs(function, *inputs):
    """What a function of backend tensors returns for symbolic inputs, run outside any graph.

    A backend replaces open axes by a length of 83, or by a symbol, which may not fit (a table of
    positions, for instance). Then two small sizes are tried, and the axes that differ are open.
    """
    spec = keras.src.backend.compute_output_spec
    try:
        return spec(function, *inputs)
    except Exception:
        if all(None not in x.shape for x in keras.tree.flatten(inputs)):
            raise
    two, three = (spec(function, *_closed(inputs, size)) for size in (2, 3))
    return keras.tree.map_structure(_where_they_agree, two, three)


def _closed(inputs, size):
    def close(x):
        return keras.KerasTensor([size if d is None else d for d in x.shape], x.dtype)

    return keras.tree.map_structure(close, inputs)


def _where_they_agree(a, b):
    if not hasattr(a, "shape"):
        return a
    shape = [d if d == e else None for d, e in zip(a.shape, b.shape, strict=True)]
    return keras.KerasTensor(shape, a.dtype)


def symbolic_inputs(model):
    """The arguments of a model's call as symbolic tensors; ``None`` if unknown."""
    if isinstance(model, keras.Sequential) and model.inputs is not None:
        return [model.inputs[0]]
    if getattr(model, "inputs", None) is not None:
        return [model.input]
    shapes = model.get_build_config() if model.built else None
    if not shapes:
        return None
    shapes = shapes.get("shapes_dict", {"input_shape": shapes.get("input_shape")})
    return [symbolic(shape, model.input_dtype) for shape in shapes.values()]


def modes(model, training):
    """The argument that tells a model whether it trains, if its ``call`` takes it."""
    takes_it = "training" in inspect.signature(type(model).call).parameters
    return {"training": training} if takes_it else {}


def nodes_of(model, layer):
    """The calls of a layer in a graph of layers; none if the model is not a plain graph."""
    functional = keras.src.models.functional.Functional
    if isinstance(model, keras.Sequential):
        plain, graph = keras.Sequential, model._functional
    else:
        plain, graph = functional, model
    if not isinstance(graph, functional) or type(model).call is not plain.call:
        return []
    nodes = itertools.chain.from_iterable(graph._nodes_by_depth.values())
    return [node for node in nodes if node.operation is layer]


def sublayers_of(layer):
    """The layers directly inside a layer, in the order in which they were given to it."""
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    return list(layer._flatten_layers(include_self=False, recursive=False))


def attributes_of(layer):
    """The attributes of a layer by name, including those that PyTorch keeps separately."""
    return {**vars(layer), **vars(layer).get("_modules", {})}


def input_names(model):
    """For each input of a graph of layers, the names of its layer and of its tensor."""
    return [[x._keras_history.operation.name, x.name] for x in model.inputs]


def output_layers(model):
    """The layers that return the outputs of a graph of layers; none for any other model."""
    return [x._keras_history.operation for x in getattr(model, "outputs", None) or []]


def symbolic_input(model):
    """The symbolic input of a graph of layers, or ``None`` for any other model."""
    if getattr(model, "inputs", None) is None:
        return None
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def inputs_by_name(model, inputs):
    """The tensors that a model is called with, by the names that it has for them.

    Empty if the model has no names for them, or if their numbers do not agree.
    """
    if isinstance(inputs, dict):
        return {name: x for name, x in inputs.items() if hasattr(x, "shape")}
    if inputs is None or getattr(model, "inputs", None) is None:
        return {}
    flat = keras.tree.flatten(inputs)
    if len(flat) != len(model.inputs):
        return {}
    named = zip(input_names(model), flat, strict=True)
    return {name: x for names, x in named for name in dict.fromkeys(names) if x is not None}


def symbolic(shape, dtype):
    """Symbolic tensors of a shape, or of a structure of shapes, with an open batch size."""
    if isinstance(shape, dict):
        return {key: symbolic(each, dtype) for key, each in shape.items()}
    if shape and isinstance(shape[0], list | tuple | dict):
        return [symbolic(each, dtype) for each in shape]
    return keras.KerasTensor((None, *shape[1:]), dtype)
