"""Taps: what layers return in the same forward pass as the model, kept or changed."""

import contextlib

import keras
from keras import ops

from keras_lgg.training import internals
from keras_lgg.training.calls import watching
from keras_lgg.training.paths import check_call, check_output, output_at, output_keys, place_of


class Tapped:
    """A model whose layers can be looked at, and changed, in a call of it.

    It holds the model out of sight of Keras, which tracks models in attributes.

    Args:
        model: Any Keras model.
        paths: Of what is kept, see `keras_lgg.layer_paths`.
        edits: Dict from paths to functions of what a layer returns, whose values take its place.

    Raises:
        ValueError: If a path leads nowhere, or does not say which call or output it means.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg.training.taps import Tapped
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        ... )
        >>> outputs, taps = Tapped(model, ["hidden"])(np.zeros((5, 4), "float32"))
        >>> tuple(outputs.shape), tuple(taps["hidden"].shape)
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
        self._layers = [place.layer for place in places]

    def __bool__(self):
        return bool(self._layers)

    def __call__(self, inputs, training=None):
        """``(outputs, taps)``, the outputs as of the model."""
        modes = {"training": training} if internals.takes_training(self.model) else {}
        with watching(self._layers, self._edited if self._edits else None) as recording:
            outputs = self.model(inputs, **modes)
        for path, (place, _) in self._edits.items():
            check_call(self.model, path, place, len(recording.calls_of(place.layer)))
        return outputs, {path: self._seen(path, recording) for path in self._places}

    def infer(self, inputs):
        """``(outputs, taps)`` in inference mode, with no gradient and no trace in the model.

        `stateless_call` leaves the states and the `add_loss` losses of the layers as they were.
        """
        modes = {"training": False} if internals.takes_training(self.model) else {}
        with _no_gradient(), watching(self._layers) as recording:
            outputs, _ = self.model.stateless_call(
                [v.value for v in self.model.trainable_variables],
                [v.value for v in self.model.non_trainable_variables],
                inputs,
                **modes,
            )
        found = outputs, {path: self._seen(path, recording) for path in self._places}
        return keras.tree.map_structure(ops.stop_gradient, found)

    def _seen(self, path, recording):
        """The one tensor that a tap stands for."""
        place = self._places[path]
        calls = recording.calls_of(place.layer)
        check_call(self.model, path, place, len(calls))
        call = calls[place.call or 0]
        if place.input is not None:
            return internals.flat_inputs(place.layer, call.args[0])[place.input]
        keys = output_keys(call.outputs)
        if place.output is None:
            check_output(path, keys)
            return output_at(call.outputs, keys[0])
        if place.output not in keys:
            raise ValueError(
                f"The tap '{path}' saw nothing. Expected an output from {keys}. Received: "
                f"{place.output!r}."
            )
        return output_at(call.outputs, place.output)

    def _edited(self, layer, call, count):
        outputs = call.outputs
        for path, (place, edit) in self._edits.items():
            if place.layer is layer and place.call in (None, count):
                outputs = _with_output(path, outputs, place.output, edit)
        return outputs


class TappedModel(keras.Model):
    """A model that returns ``(outputs, taps)`` of another, whose weights it shares.

    Args:
        model: Any Keras model.
        paths: See `Tapped`.

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

    def __init__(self, model, paths):
        super().__init__(autocast=False, dtype=model.dtype_policy)
        self.model = model
        self._tapped = Tapped(model, paths)
        self.built = model.built

    def call(self, inputs, training=None):
        return self._tapped(inputs, training=training)


class EditedModel(keras.Model):
    """A model in which what some layers of another return passes through functions.

    It shares the weights of the other, which stays as it was.

    Args:
        model: Any Keras model.
        edits: Dict from paths to functions, or layers, of what a layer returns.

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
    """The outputs of a layer, one of which passed through a function."""
    keys = output_keys(outputs)
    if key is None:
        check_output(path, keys)
        return keras.tree.map_structure(edit, outputs)
    if isinstance(outputs, dict):
        return {**outputs, key: edit(outputs[key])}
    flat = keras.tree.flatten(outputs)
    flat[int(key)] = edit(flat[int(key)])
    return keras.tree.pack_sequence_as(outputs, flat)


def _no_gradient():
    """A context in which PyTorch keeps no graph; elsewhere `stop_gradient` prunes it all."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()
