"""What penalties need from a network in one step."""

import collections
import functools
from typing import NamedTuple

import keras

from keras_lgg import checks
from keras_lgg.losses.cross_batch import CrossBatch
from keras_lgg.training import internals
from keras_lgg.training.calls import first_input
from keras_lgg.training.parts import in_parts
from keras_lgg.training.paths import place_of, position_of
from keras_lgg.training.penalties import (
    base_penalty,
    check_penalties,
    described,
    is_keras_distillation,
    layer_taps,
    loss_needs_labels,
    loss_on_layers,
    memories_of,
    weight_words,
)
from keras_lgg.training.penalty_layer import GeometryPenalty
from keras_lgg.training.taps import Tapped, seen_output
from keras_lgg.types import Tensor


class View(NamedTuple):
    """What a penalty reads at one tap.

    Attributes:
        vectors: One vector per sample, if positions are pooled.
        mask: Which positions count, for Keras's own losses.
    """

    vectors: Tensor
    mask: Tensor | None = None


class Plan:
    """The penalties of a step, and the layers of the trained network that they tap.

    Args:
        network: The model that is trained.
        penalties: List of `Penalty`, whose taps are paths.
        paths: The layers of the network that are tapped.
        micro_batch: Number of samples that the network sees at a time; ``None`` for all.
    """

    def __init__(self, network, penalties, paths, micro_batch=None):
        check_micro_batch(network, micro_batch)
        self.network = network
        self.penalties = penalties
        self.micro_batch = micro_batch
        self._memories = [None] * len(penalties)
        watched = collections.defaultdict(list)
        for penalty in penalties:
            path = None if penalty.balance is None else self.last_tap(penalty)
            if path is not None:
                watched[path].append(penalty.balance.watch_task)
        edits = {path: _chain(functions) for path, functions in watched.items()}
        self.tapped = Tapped(network, paths, edits)

    def begin(self, training):
        """Update balanced weights, once per step, before any view is taken."""
        for penalty in self.penalties:
            if penalty.balance is not None and training:
                penalty.balance.update()

    @property
    def watches(self):
        """Whether the network has to be called by `run`."""
        return bool(self.tapped) or self.micro_batch is not None

    def run(self, call, args, kwargs, training):
        """``(outputs, views)`` of ``call(*args, **kwargs)``, which calls the network.

        With micro-batches, it is called once for each part.
        """
        self.begin(training)

        def of_part(given):
            args, kwargs = given
            inputs = first_input(args, kwargs)
            outputs, taps = self.tapped.watched(call, args, kwargs)
            return outputs, self.views(inputs, outputs, taps, training)

        if self.micro_batch is None:
            return of_part((args, kwargs))
        variables = [v for penalty in self.penalties for v in penalty.variables]
        return in_parts(of_part, (args, kwargs), self.micro_batch, self.network, variables)

    def inferred_views(self, inputs):
        """The views of a call in inference mode, which does not change the network."""
        return self.views(inputs, *self.tapped.infer(inputs), False)

    def views(self, inputs, outputs, taps, training):
        """For each penalty, what it reads from the network, a list of `View`."""
        return [
            self._views(penalty, self._seen(penalty, inputs, outputs, taps), training)
            for penalty in self.penalties
        ]

    @staticmethod
    def _views(penalty, seen, training=False):
        if penalty.balance is not None and training:
            tensors = penalty.balance.watch_penalty([each.value for each in seen])
            seen = [each._replace(value=x) for each, x in zip(seen, tensors, strict=True)]
        needs_mask = is_keras_distillation(penalty.loss) and not penalty.pool
        return [
            View(each.pooled_for(penalty), each.mask_for(penalty) if needs_mask else None)
            for each in seen
        ]

    def values(self, x, y, views, training):
        """For each penalty, its value and the tensors that it was computed from."""
        raise NotImplementedError

    def remember(self):
        """Create the memories of `CrossBatch` losses; returns their variables.

        Raises:
            ValueError: If the shapes of what they would hold are not known yet.
        """
        with_memory = [p.name for p in self.penalties if isinstance(p.loss, CrossBatch)]
        if with_memory:
            is_built = self.network.built
            inputs = internals.symbolic_inputs(self.network) if is_built else None
            if inputs is None:
                raise ValueError(
                    f"The penalties {with_memory} do not know how wide their memory is. Expected a "
                    f"network that has its weights. Received: '{self.network.name}', which has "
                    "not been built. Call it on a batch or build it first."
                )
            self._memories = self._memories_for(inputs[0])
        flat = [memory for memories in self._memories for memory in memories or []]
        return [variable for memory in flat for variable in memory.variables]

    def _memories_for(self, inputs):
        """For each penalty, the memories of its loss, or ``None``."""
        representations = internals.symbolic_outputs(self._shapes, inputs)
        shapes = keras.tree.map_structure(lambda x: x.shape, representations)
        losses = [penalty.loss for penalty in self.penalties]
        return [memories_of(*both) for both in zip(losses, shapes, strict=True)]

    def _shapes(self, inputs):
        """For each penalty, the representations that its loss would remember."""
        raise NotImplementedError

    def _memories_in(self, training):
        """For each penalty, the memories of its loss, which are used in training only."""
        return self._memories if training else [None] * len(self.penalties)

    def watched_outputs(self, outputs):
        """The outputs, watched so that balanced penalties on them see the loss's gradient."""
        for penalty in self.penalties:
            if penalty.balance is not None and self.last_tap(penalty) is None:
                count = len(keras.tree.flatten(outputs))
                if count > 1:
                    raise ValueError(
                        f"The penalty '{penalty.name}' has no single output to balance it at. "
                        f"Expected a model of one output, or taps. Received: {count} outputs. "
                        "Name the layers in `taps`."
                    )
                outputs = keras.tree.map_structure(penalty.balance.watch_task, outputs)
        return outputs

    def check_nothing_to_balance(self):
        """Raise if a weight is balanced although there is no loss of the task."""
        for penalty in self.penalties:
            if penalty.balance is not None:
                raise ValueError(
                    f"The penalty '{penalty.name}' has nothing to be balanced with. Expected a "
                    "loss of the task. Received: a model compiled without one. Give compile() a "
                    "loss, or the penalty a number as its weight."
                )

    @staticmethod
    def own_taps(penalty):
        """The layers of the trained network that a penalty taps; ``None`` is the output."""
        raise NotImplementedError

    def last_tap(self, penalty):
        """The last of them."""
        return self.own_taps(penalty)[-1]

    def tapped_layers(self, penalty):
        """The tapped layers themselves, as far as they are known."""
        taps = self.own_taps(penalty)
        if None in taps:
            return internals.output_layers(self.network)
        return [place_of(self.network, path).layer for path in taps]

    def lines(self):
        """The lines of a summary: each penalty's loss, weight, and taps with their shapes."""
        shapes = self._tapped_shapes()
        for i, penalty in enumerate(self.penalties):
            yield f"Penalty '{penalty.name}': {described(penalty.loss)}, {weight_words(penalty)}"
            for j, place in enumerate(self.places(penalty)):
                yield f"    {place}" + (f"  {shapes[i][j]}" if shapes else "")

    def _tapped_shapes(self):
        """For each penalty, the shapes of its `places`; ``None`` if they are not known yet."""
        inputs = internals.symbolic_inputs(self.network) if self.network.built else None
        if inputs is None:
            return None
        representations = internals.symbolic_outputs(self._shapes, inputs[0])
        return [[tuple(x.shape) for x in keras.tree.flatten(each)] for each in representations]

    @staticmethod
    def places(penalty):
        """The names of all that a penalty taps."""
        raise NotImplementedError

    def _seen(self, penalty, inputs, outputs, taps):
        """What a penalty taps in the network, a list of `Seen`."""
        raise NotImplementedError


class OneNetwork(Plan):
    """Penalties on the layers of one network.

    Args:
        base: The model.
        penalties: List of `Penalty`.
        micro_batch: See `Plan`.
    """

    def __init__(self, base, penalties, micro_batch=None):
        penalties = [base_penalty(penalty, base) for penalty in check_penalties(penalties)]
        paths = [path for p in penalties if p.taps is not None for path in layer_taps(p)]
        super().__init__(base, penalties, paths, micro_batch)

    @staticmethod
    def own_taps(penalty):
        return layer_taps(penalty)

    @staticmethod
    def places(penalty):
        return ["the output"] if penalty.taps is None else layer_taps(penalty)

    def positions(self):
        """Where the tapped layers stand in the network, to be saved in a file."""
        return {
            path: position_of(self.network, path)
            for penalty in self.penalties
            if penalty.taps is not None
            for path in layer_taps(penalty)
        }

    def _seen(self, penalty, inputs, outputs, taps):
        if penalty.taps is None:
            return [seen_output(self.network, inputs, outputs)]
        return [taps[path] for path in layer_taps(penalty)]

    def values(self, x, y, views, training):
        del x
        found = []
        memories = self._memories_in(training)
        for penalty, seen, past in zip(self.penalties, views, memories, strict=True):
            labels = labels_of(penalty, y) if loss_needs_labels(penalty.loss) else None
            vectors = [view.vectors for view in seen]
            found.append((loss_on_layers(penalty.loss, vectors, labels, past), vectors))
        return found

    def _shapes(self, inputs):
        return [[view.vectors for view in seen] for seen in self.inferred_views(inputs)]


def labels_of(penalty, y):
    """The class labels that a penalty reads from the targets ``y``."""
    if penalty.labels is not None and y is not None:
        y = _target(penalty, y)
    targets = [] if y is None else keras.tree.flatten(y)
    if len(targets) != 1:
        advice = (
            "Pass y to fit() and evaluate()."
            if not targets
            else "Say which with lgg.Penalty(..., labels=<key or index in y>)."
        )
        raise ValueError(
            f"The penalty '{penalty.name}' needs class labels. Expected one target array. "
            f"Received: {len(targets)} of them. {advice}"
        )
    return targets[0]


def _target(penalty, y):
    """The target that ``penalty.labels`` names in a dict or a list of them."""
    if isinstance(y, dict):
        names = list(y)
    else:
        names = list(range(len(y))) if isinstance(y, list | tuple) else []
    if penalty.labels not in names:
        received = f"targets {names}" if names else "a single target; leave out `labels`"
        raise ValueError(
            f"The penalty '{penalty.name}' finds no labels={penalty.labels!r} in y. "
            f"Expected a key or index of the targets. Received: {received}."
        )
    return y[penalty.labels]


def _chain(functions):
    return lambda x: functools.reduce(lambda x, function: function(x), functions, x)


def check_micro_batch(network, micro_batch):
    """Raise if a network cannot run in parts of this many samples."""
    if micro_batch is None:
        return
    checks.check_positive_integer("micro_batch", micro_batch)
    inside = [x.name for x in network._flatten_layers() if isinstance(x, GeometryPenalty)]
    if inside:
        raise ValueError(
            f"The layers {inside} of '{network.name}' would see parts of the batch. Expected "
            "penalties around a network that runs in parts. Received: GeometryPenalty layers "
            f"inside it, and micro_batch={micro_batch}. Take the network without them, "
            "lgg.layers.without_penalties(model), and a lgg.Penalty with the same loss for each."
        )
