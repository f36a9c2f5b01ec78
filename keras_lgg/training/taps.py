"""Taps: what layers return in the forward pass of a model, kept or changed."""

import contextlib
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_lgg.graphs.pooling import MASK_INPUTS, mask_of, pooled
from keras_lgg.training import internals
from keras_lgg.training.calls import first_input, watching
from keras_lgg.training.paths import check_call, check_output, output_at, output_keys, place_of


class Seen(NamedTuple):
    """What a tap sees in one call of a model.

    Attributes:
        value: Tensor.
        mask: Which of its positions count: Keras's mask, or an input that serves as one.
        inputs: What the model was called with, by name.
        is_ready: Whether it is already pooled.
    """

    value: Any
    mask: Any = None
    inputs: dict[str, Any] = {}  # noqa: RUF012 (it is never changed)
    is_ready: bool = False

    @classmethod
    def ready(cls, value):
        return cls(value, is_ready=True)

    def pooled_for(self, penalty):
        """One vector per sample, as a penalty asks."""
        if self.is_ready:
            return self.value
        return pooled(self.value, self.mask_for(penalty), penalty.pool)

    def mask_for(self, penalty):
        """The mask that a penalty reads: the input that it names, or the tap's own."""
        if self.is_ready or penalty.mask is None:
            return self.mask
        if penalty.mask not in self.inputs:
            raise ValueError(
                f"The penalty '{penalty.name}' finds no input '{penalty.mask}' for its mask. "
                f"Expected the name of one of the model's inputs: {sorted(self.inputs)}. "
                f"Received: mask={penalty.mask!r}."
            )
        if len(self.value.shape) < 3:
            raise ValueError(
                f"The mask of the penalty '{penalty.name}' would be read by nothing. Expected a "
                "representation (n, T, ...) with positions. Received: one of shape "
                f"{tuple(self.value.shape)}. Leave out mask={penalty.mask!r}."
            )
        return self.inputs[penalty.mask]


def seen_output(model, inputs, outputs):
    """The output of a model as a tap sees it."""
    return _seen(model, inputs, outputs, None)


def _seen(model, inputs, value, mask, given=()):
    """A value with its mask.

    That is Keras's mask; else one that its layer, or a layer around it, was given; else an input.
    """
    named = internals.inputs_by_name(model, inputs)
    if mask is None and hasattr(value, "shape"):
        mask = mask_of(value)
    if mask is None:
        mask = _nearest(given, value)
    if mask is None:
        mask = next((named[n] for n in MASK_INPUTS if n in named and _fits(named[n], value)), None)
    return Seen(value, mask, named)


def _nearest(given, value):
    """The mask given to the innermost layer that was given exactly one that fits."""
    for masks in given:
        fitting = [mask for mask in masks if _fits(mask, value)]
        # Of two, such as those of an encoder and a decoder, it is unknown which is right.
        if len(fitting) == 1:
            return fitting[0]
    return None


def _fits(mask, value):
    """Whether a mask can belong to a representation, judging by the shapes."""
    shape = getattr(value, "shape", ())
    if len(shape) < 3 or len(getattr(mask, "shape", ())) != 2:
        return False
    return mask.shape[1] is None or shape[1] is None or mask.shape[1] == shape[1]


class Tapped:
    """A model whose layers can be watched, and changed, during a call.

    It hides the model from Keras, which tracks models in attributes.

    Args:
        model: Any Keras model.
        paths: The paths of what to keep, see `keras_lgg.layer_paths`.
        edits: Dict from paths to functions of what a layer returns; their values replace it.

    Raises:
        ValueError: If a path leads nowhere, or does not say which call or output it means.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg.training.taps import Tapped
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        ... )
        >>> outputs, taps = Tapped(model, ["hidden"])(np.zeros((5, 4), "float32"))
        >>> tuple(outputs.shape), tuple(taps["hidden"].value.shape)
        ((5, 2), (5, 3))
    """

    def __init__(self, model, paths=(), edits=None):
        self.model = model
        self._places = {path: place_of(model, path) for path in dict.fromkeys(paths)}
        self._edits = {path: (place_of(model, path), edit) for path, edit in (edits or {}).items()}
        for path, (place, _) in self._edits.items():
            if place.input is not None:
                raise ValueError(
                    f"The input '{path}' of the model '{model.name}' cannot be edited. Expected "
                    f"a layer. Received: '{path}'. Change what you call the model with."
                )
        places = [*self._places.values(), *(place for place, _ in self._edits.values())]
        self.layers = [layer for place in places for layer in (place.layer, *place.around)]
        self.edit = self._edited if self._edits else None

    def __bool__(self):
        return bool(self.layers)

    def __call__(self, inputs, training=None):
        """``(outputs, taps)`` of a call of the model."""
        return self.watched(self.model, (inputs,), internals.modes(self.model, training))

    def watched(self, call, args, kwargs):
        """``(outputs, taps)`` of ``call(*args, **kwargs)``, which calls the model."""
        with watching(self.layers, self.edit) as recording:
            outputs = call(*args, **kwargs)
        return outputs, self.seen(recording, first_input(args, kwargs))

    def seen(self, recording, inputs):
        """Dict from each path to what was `Seen` there."""
        for path, (place, _) in self._edits.items():
            check_call(self.model, path, place, len(recording.calls_of(place.layer)))
        return {path: self._seen(path, recording, inputs) for path in self._places}

    def infer(self, inputs):
        """``(outputs, taps)`` in inference mode, without gradients or side effects on the model.

        `stateless_call` leaves the states and the `add_loss` losses of the layers unchanged.
        """
        with _no_gradient(), watching(self.layers) as recording:
            outputs, _ = self.model.stateless_call(
                [v.value for v in self.model.trainable_variables],
                [v.value for v in self.model.non_trainable_variables],
                inputs,
                **internals.modes(self.model, False),
            )
        taps = {path: self._seen(path, recording, inputs) for path in self._places}
        outputs = keras.tree.map_structure(still, outputs)
        return outputs, {
            path: seen._replace(value=still(seen.value)) for path, seen in taps.items()
        }

    def _seen(self, path, recording, inputs):
        """The tensor that a tap stands for, with its mask."""
        place = self._places[path]
        calls = recording.calls_of(place.layer)
        check_call(self.model, path, place, len(calls))
        call = calls[place.call or 0]
        if place.input is not None:
            names = internals.input_names(place.layer)[place.input]
            given = internals.inputs_by_name(place.layer, call.args[0])
            return _seen(self.model, inputs, given[next(n for n in names if n in given)], None)
        keys = output_keys(call.outputs)
        if place.output is None:
            check_output(path, keys)
        elif place.output not in keys:
            raise ValueError(
                f"The tap '{path}' saw nothing. Expected an output from {keys}. Received: "
                f"{place.output!r}."
            )
        key = keys[0] if place.output is None else place.output
        masks = [] if call.mask is None else keras.tree.flatten(call.mask)
        mask = masks[keys.index(key)] if len(masks) == len(keys) else None
        return _seen(self.model, inputs, output_at(call.outputs, key), mask, call.masks)

    def _edited(self, layer, call, count):
        outputs = call.outputs
        for path, (place, edit) in self._edits.items():
            if place.layer is layer and place.call in (None, count):
                outputs = _with_output(path, outputs, place.output, edit)
        return outputs


class TappedModel(keras.Model):
    """A model that returns ``(outputs, taps)`` of another one, whose weights it shares.

    Args:
        model: Any Keras model.
        paths: See `Tapped`.
        pool: How representations with positions are pooled, see `keras_lgg.Penalty`.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg.training.taps import TappedModel
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        ... )
        >>> _, taps = TappedModel(model, ["hidden"]).predict(np.ones((5, 4)), verbose=0)
        >>> taps["hidden"].shape
        (5, 3)
    """

    def __init__(self, model, paths, pool=None):
        super().__init__(autocast=False, dtype=model.dtype_policy)
        self.model = model
        self.pool = pool
        self._tapped = Tapped(model, paths)
        self.built = model.built

    def call(self, inputs, training=None):
        outputs, taps = self._tapped(inputs, training=training)
        return outputs, {
            path: pooled(seen.value, seen.mask, self.pool) for path, seen in taps.items()
        }


class EditedModel(keras.Model):
    """A copy of a model in which functions change what some of the layers return.

    It shares the weights of the original, which stays as it was.

    Args:
        model: Any Keras model.
        edits: Dict from paths to functions, or layers, that change what a layer returns.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg.training.taps import EditedModel
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        ... )
        >>> silent = EditedModel(model, {"hidden": keras.ops.zeros_like})
        >>> keras.ops.convert_to_numpy(silent(np.ones((1, 4), "float32"))).tolist()
        [[0.0, 0.0]]
    """

    def __init__(self, model, edits):
        super().__init__(autocast=False, dtype=model.dtype_policy)
        self.model = model
        self.edits = [edit for edit in edits.values() if isinstance(edit, keras.layers.Layer)]
        self._tapped = Tapped(model, edits=edits)
        self.built = model.built

    def call(self, inputs, training=None):
        return self._tapped(inputs, training=training)[0]


def _with_output(path, outputs, key, edit):
    """The outputs of a layer, one of them changed by a function."""
    keys = output_keys(outputs)
    if key is None:
        check_output(path, keys)
        return keras.tree.map_structure(edit, outputs)
    if isinstance(outputs, dict):
        return {**outputs, key: edit(outputs[key])}
    flat = keras.tree.flatten(outputs)
    flat[int(key)] = edit(flat[int(key)])
    return keras.tree.pack_sequence_as(outputs, flat)


def still(x):
    """A tensor that passes no gradient on; ``None`` stays ``None``."""
    return None if x is None else ops.stop_gradient(ops.convert_to_tensor(x))


def _no_gradient():
    """A context in which PyTorch records no graph; elsewhere, `stop_gradient` removes it all."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()
