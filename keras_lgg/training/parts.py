"""A network run on parts of a batch, with the outputs and the gradients of the whole batch.

The first run of a part keeps for the backward pass only the states that changed in it. Once the
gradient with respect to its outputs is known, the part runs again, from the same states and so with
the same random numbers, and passes that gradient on. So memory is that of one part, plus the
outputs. Each backend has its own way: a checkpointed scan on JAX, checkpoints on PyTorch, loops on
TensorFlow.

Reference: Gao et al., "Scaling deep contrastive learning batch size under memory limited setup",
RepL4NLP 2021
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_lgg.graphs.pooling import mask_of, may_equal
from keras_lgg.losses import replicas
from keras_lgg.training import internals


def in_parts(
    function: Callable[[Any], Any],
    inputs: Any,
    size: int,
    network: keras.Model,
    variables: Sequence[keras.Variable] = (),
) -> Any:
    """``function(inputs)``, where the network sees ``size`` samples at a time.

    What layers add by `add_loss` becomes a mean over the samples, added to the network. States are
    updated once per part. Inputs known to have at most ``size`` samples are not divided.

    Args:
        function: Function of a structure of tensors with one row per sample, which may also hold
            scalars and other values. Returns a structure of tensors, in which ``None`` may stand
            for one.
        inputs: Such a structure, of ``n`` samples.
        size: Number of samples in a part; one part has fewer if the batch is no multiple of it.
        network: The model that the function calls.
        variables: Further variables that the function reads.

    Returns:
        What the function returns, for all samples.
    """
    rows = _batched(inputs)[0].shape[0]
    if rows is not None and rows <= size:
        return function(inputs)
    part = _Part(function, inputs, network, variables)
    outputs, losses, states = _IN_PARTS[keras.backend.backend()](part, size)
    for variable, value in zip(part.moved, states, strict=True):
        variable.assign(value)
    for loss in losses:
        network.add_loss(loss)
    return part.result(outputs)


class _Part:
    """The function as a pure function of tensors, which changes no variable.

    Attributes:
        inputs: List of the tensors of the whole batch.
        samples: Number of samples in the batch.
        values: The values of the variables that may be trained.
        moved: The variables that a part changes; known, like ``start``, once a part has run.
        start: Their values before.
        losses: Number of losses that a part adds.
    """

    def __init__(self, function, inputs, network, variables):
        self._function = function
        self._network = network
        self._structure = inputs
        self.inputs = [ops.convert_to_tensor(x) for x in _batched(inputs)]
        self.samples = ops.shape(self.inputs[0])[0]
        known = {id(v): v for v in (*network.variables, *variables)}.values()
        self._trained = [v for v in known if v.trainable]
        self._others = [v for v in known if not v.trainable]
        with internals.no_autocast():
            self.values = [_kept(v.value) for v in self._trained]
            self._other_values = [_kept(v.value) for v in self._others]
        self.moved, self.start, self.losses = [], [], 0
        self._result = None

    def __call__(self, values, states, inputs):
        """``(outputs, losses, states)`` of a part: lists of tensors.

        The losses are the part's share of the mean over the batch. The states are those of
        ``moved``; an empty list stands for those at the start.
        """
        variables = [*self._trained, *self._others, *self.moved]
        values = [*values, *self._other_values, *(states or self.start)]
        with internals.MovingScope(zip(variables, values, strict=True)) as scope:
            result = self._function(_filled(self._structure, inputs))
        share = ops.shape(inputs[0])[0] / self.samples
        losses = [loss * ops.cast(share, loss.dtype) for loss in scope.losses]
        internals.forget_losses(self._network, scope.losses)
        if self._result is None:
            self.losses = len(losses)
            self._learn(scope.moved, dict(zip(map(id, variables), values, strict=True)))
        self._result, outputs = _taken_apart(result)
        _check_rows(outputs, inputs[0])
        return outputs, losses, [scope.get_current_value(v) for v in self.moved]

    def _learn(self, moved, before):
        built = [v for v in self._network.variables if id(v) not in before]
        if built:
            raise ValueError(
                f"The model '{self._network.name}' is built during a call, which cannot be done in "
                "parts. Expected a model that already has its weights. Received: one that created "
                f"{len(built)} of them when it was called. Call it on a sample first."
            )
        with internals.no_autocast():
            self.start = [before[id(v)] if id(v) in before else _kept(v.value) for v in moved]
        self.moved = moved

    def result(self, outputs):
        """What the function returns, from its tensors for all samples."""
        structure, masks = self._result
        for tensor, mask in masks:
            internals.set_mask(outputs[tensor], outputs[mask])
        return keras.tree.map_structure(
            lambda place: None if place is None else outputs[place], structure
        )


def _kept(value):
    """A tensor that does not change when the variable does."""
    is_jax = keras.backend.backend() == "jax"  # whose arrays never change
    return ops.convert_to_tensor(value) if is_jax else ops.copy(value)


def _check_rows(outputs, first_input):
    for x in outputs:
        if len(x.shape) == 0 or not may_equal(x.shape[0], first_input.shape[0]):
            raise ValueError(
                "A model that runs in parts returns what has no row for each sample. Expected "
                f"outputs (n, ...) for the {first_input.shape[0]} samples of a part. Received: "
                f"shape {tuple(x.shape)}. Leave out micro_batch."
            )


def _is_batched(x):
    return len(getattr(x, "shape", ())) > 0


def _batched(structure):
    """The tensors of a structure that have one row per sample."""
    return [x for x in keras.tree.flatten(structure) if _is_batched(x)]


def _filled(structure, tensors):
    """The structure with these tensors in their place."""
    tensors = iter(tensors)
    return keras.tree.map_structure(lambda x: next(tensors) if _is_batched(x) else x, structure)


def _taken_apart(result):
    """The result of a function as a list of its different tensors, including Keras masks.

    Returns:
        ``((structure, masks), tensors)``: the structure of the result, with positions in the list
        for tensors, and pairs of the position of a tensor and that of its mask.
    """
    found = {}

    def place(x):
        return None if x is None else found.setdefault(id(x), (len(found), x))[0]

    structure = keras.tree.map_structure(place, result)
    flat = [x for x in keras.tree.flatten(result) if x is not None]
    masks = [(place(x), place(mask_of(x))) for x in flat if mask_of(x) is not None]
    return (structure, masks), [x for _, x in found.values()]


def _on_jax(part, size):
    import jax

    count, rest = divmod(part.samples, size)

    def of_rows(begin, end):
        return [x[begin:end] for x in part.inputs]

    # States are known once a part was run: here only with shapes.
    jax.eval_shape(lambda: part(part.values, [], of_rows(0, size)))

    def step(states, inputs):
        outputs, losses, states = run(part.values, states, inputs)
        return states, (outputs, losses)

    run = jax.checkpoint(part, prevent_cse=False)  # a scan prevents it anyway
    # Each device has a share of each part, or all would work on a part that one of them holds.
    shards = replicas.split_count()
    shards = shards if rest == 0 and size % shards == 0 else 1
    parts = [_in_turns(x, shards, count) for x in of_rows(0, count * size)]
    parts = [ops.reshape(x, (count, size, *x.shape[3:])) for x in parts]
    states, (outputs, losses) = jax.lax.scan(step, part.start, parts)
    outputs = [_in_turns(ops.reshape(x, (-1, *x.shape[2:])), count, shards) for x in outputs]
    outputs = [ops.reshape(x, (-1, *x.shape[3:])) for x in outputs]
    losses = [ops.sum(x, axis=0) for x in losses]
    if rest:
        last = jax.checkpoint(part)(part.values, states, of_rows(-rest, None))
        outputs = [ops.concatenate(both) for both in zip(outputs, last[0], strict=True)]
        losses = [a + b for a, b in zip(losses, last[1], strict=True)]
        states = last[2]
    return outputs, losses, states


def _in_turns(x, first, second):
    """Rows ordered by ``first`` and then ``second``, as ``(second, first, rest, ...)``."""
    x = ops.reshape(x, (first, second, -1, *x.shape[1:]))
    return ops.swapaxes(x, 0, 1)


def _on_torch(part, size):
    from torch.utils.checkpoint import checkpoint

    states, found = [], []
    for begin in range(0, part.samples, size):
        inputs = [x[begin : begin + size] for x in part.inputs]
        # The first run shows which states change; before, there are none to pass.
        found.append(checkpoint(part, part.values, states, inputs, use_reentrant=False))
        states = found[-1][2]
    outputs, losses, _ = zip(*found, strict=True)
    outputs = [ops.concatenate(each) for each in zip(*outputs, strict=True)]
    return outputs, [sum(each) for each in zip(*losses, strict=True)], states


def _on_tensorflow(part, size):
    from keras_lgg.training.tensorflow_parts import run

    found = run(part, size)
    ends = len(found) - len(part.moved)
    begins = ends - part.losses
    return found[:begins], found[begins:ends], found[ends:]


_IN_PARTS = {"jax": _on_jax, "tensorflow": _on_tensorflow, "torch": _on_torch}
