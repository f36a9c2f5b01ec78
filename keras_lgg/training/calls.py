"""What the layers of a model return, watched and changed while the model is called.

During one call, the ``call`` methods of some layers are wrapped. This needs no graph of layers, and
what is seen belongs to the same forward pass, or trace, as the training step.
"""

import collections
import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from keras_lgg.graphs.pooling import MASK_INPUTS, mask_of


class Call(NamedTuple):
    """One call of a layer: what it was given and what it returned, with its mask.

    Attributes:
        masks: The masks of what it was given, then those of what the watched layers around it were
            given, the nearest first.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any
    mask: Any
    masks: tuple[list[Any], ...] = ()


class Recording:
    """The calls of some layers, in order.

    Args:
        layers: The layers to watch.
        edit: Function ``edit(layer, call, count)`` of a watched layer, its current call and the
            number of earlier calls, which returns a replacement for the outputs.
        run: Function ``run(call, args, kwargs)`` that calls a watched layer, instead of
            ``call(*args, **kwargs)``.
        lenient: Whether to skip what cannot be seen, instead of raising an error.
    """

    def __init__(self, layers, edit=None, *, run=None, lenient=False):
        self._layers = {id(layer): layer for layer in layers}
        self._edit = edit
        self.run = run
        self._lenient = lenient
        self._trace = _current_trace()
        self._order = []
        self._hidden = set()
        self._calls = collections.defaultdict(list)

    @property
    def order(self) -> list[tuple[keras.layers.Layer, Call]]:
        """The layers whose calls were all seen, in the order in which they returned."""
        return [(layer, call) for layer, call in self._order if id(layer) not in self._hidden]

    def calls_of(self, layer: keras.layers.Layer) -> list[Call]:
        return self._calls[id(layer)]

    def watches(self, layer):
        return id(layer) in self._layers

    def saw(self, layer, call):
        """Keep a call; returns the outputs that the layer should return."""
        if _current_trace() != self._trace:
            if self._lenient:
                self._hidden.add(id(layer))
                return call.outputs
            raise ValueError(
                f"The layer '{layer.name}' cannot be tapped where it runs. Expected a layer that "
                "is called in the forward pass itself. Received: one that runs inside a loop, a "
                "condition, or a block that is compiled separately or rematerialised "
                "(keras.remat, RematScope), whose values do not come out. Tap the layer around it."
            )
        calls = self._calls[id(layer)]
        outputs = call.outputs if self._edit is None else self._edit(layer, call, len(calls))
        calls.append(call)
        self._order.append((layer, call))
        return outputs


@contextlib.contextmanager
def watching(
    layers: list[keras.layers.Layer],
    edit: Callable[..., Any] | None = None,
    *,
    run: Callable[..., Any] | None = None,
    lenient: bool = False,
) -> Iterator[Recording]:
    """Record the calls of some layers, in this thread, until the block ends.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg.training.calls import watching
        >>> hidden = keras.layers.Dense(3)
        >>> model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2)])
        >>> with watching([hidden]) as recording:
        ...     outputs = model(np.zeros((5, 4), "float32"))
        >>> [tuple(call.outputs.shape) for call in recording.calls_of(hidden)]
        [(5, 3)]
    """
    layers = list({id(layer): layer for layer in layers}.values())
    recording = Recording(layers, edit, run=run, lenient=lenient)
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_wrapped(layer))
        token = _recordings.set((*_recordings.get(), recording))
        try:
            yield recording
        finally:
            _recordings.reset(token)


# The recordings of this thread: the replicas of a distribution strategy trace in threads.
_recordings: contextvars.ContextVar[tuple[Recording, ...]] = contextvars.ContextVar(
    "keras_lgg_recordings", default=()
)
# The masks given to the watched layers that are running, the innermost first.
_masks: contextvars.ContextVar[tuple[list[Any], ...]] = contextvars.ContextVar(
    "keras_lgg_masks", default=()
)
_lock = threading.RLock()
_wrap_counts: collections.Counter[int] = collections.Counter()


@contextlib.contextmanager
def _wrapped(layer):
    """The methods by which a layer is called, wrapped once for any number of recordings."""
    methods = [name for name in ("call", "quantized_call") if hasattr(layer, name)]
    with _lock:
        _wrap_counts[id(layer)] += 1
        if _wrap_counts[id(layer)] == 1:
            for name in methods:
                # Not by setting an attribute, which Keras and PyTorch would track.
                layer.__dict__[name] = _recorded(layer, layer.__dict__.get(name), name)
    try:
        yield
    finally:
        with _lock:
            _wrap_counts[id(layer)] -= 1
            if not _wrap_counts[id(layer)]:
                del _wrap_counts[id(layer)]
                for name in methods:
                    before = layer.__dict__.pop(name).before
                    if before is not None:
                        layer.__dict__[name] = before


def _recorded(layer, before, name):
    original = getattr(layer, name) if before is None else before

    @functools.wraps(original)
    def call(*args, **kwargs):
        recordings = [recording for recording in _recordings.get() if recording.watches(layer)]
        if not recordings:
            return original(*args, **kwargs)
        previous = _previous_mask(args, kwargs)
        masks = (_given_masks(args, kwargs), *_masks.get())
        token = _masks.set(masks)
        try:
            outputs = _run(recordings, original, args, kwargs)
        finally:
            _masks.reset(token)
        mask = _mask_of(layer, args, outputs, previous)
        for recording in recordings:
            outputs = recording.saw(layer, Call(args, kwargs, outputs, mask, masks))
        return outputs

    call.before = before
    return call


def _run(recordings, original, args, kwargs):
    """Call a layer by the ``run`` of the innermost recording that has one."""
    for recording in reversed(recordings):
        if recording.run is not None:
            return recording.run(original, args, kwargs)
    return original(*args, **kwargs)


def first_input(args, kwargs):
    """The first argument of a call of a layer."""
    return args[0] if args else next(iter(kwargs.values()), None)


def _previous_mask(args, kwargs):
    """The mask of a layer's first input, which some layers remove while they run."""
    if kwargs.get("mask") is not None:
        return kwargs["mask"]
    return keras.tree.map_structure(mask_of, first_input(args, kwargs))


def _given_masks(args, kwargs):
    """The different masks among the arguments of a layer: Keras masks, or named so."""
    named = [kwargs[name] for name in ("mask", *MASK_INPUTS) if name in kwargs]
    masks = [*map(mask_of, keras.tree.flatten((args, kwargs))), *keras.tree.flatten(named)]
    return list({id(mask): mask for mask in masks if mask is not None}.values())


def _mask_of(layer, args, outputs, previous):
    """The mask that Keras is about to put on the outputs of a layer."""
    given = keras.tree.map_structure(mask_of, outputs)
    if any(mask is not None for mask in keras.tree.flatten(given)):
        return given
    if not layer.supports_masking:
        return None
    return layer.compute_mask(args[0] if args else None, previous)


def _current_trace():
    """The current trace: a tensor of another trace must not be kept."""
    backend = keras.backend.backend()
    if backend == "jax":
        from jax.extend.core import get_opaque_trace_state

        return get_opaque_trace_state(convention="nnx")
    if backend == "tensorflow":
        import tensorflow as tf
        from tensorflow.python.eager import record

        # `tf.recompute_grad` calls its function with the tapes stopped.
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        return graph, record.could_possibly_record()
    return None
