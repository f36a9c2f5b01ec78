"""What penalties ask of a network, or of a teacher and a student, in one step."""

import collections
import copy
import functools

import keras
from keras import ops

from keras_lgg.losses import replicas
from keras_lgg.training import internals
from keras_lgg.training.paths import has_path, path_at, position_of
from keras_lgg.training.penalties import (
    base_penalty,
    check_penalties,
    is_keras_distillation,
    layer_taps,
    located_pairs,
    loss_needs_labels,
    loss_on_layers,
    teacher_student_taps,
)
from keras_lgg.training.taps import Seen, Tapped, seen_output
from keras_lgg.training.teacher_cache import cached_name, split_cached


class Plan:
    """The penalties of a step, and the layers of the trained network that they look at.

    Args:
        network: The model that is trained.
        penalties: List of `Penalty`, whose taps are paths.
        paths: The layers of the network that are tapped.
    """

    def __init__(self, network, penalties, paths):
        self.network = network
        self.penalties = penalties
        watched = collections.defaultdict(list)
        for penalty in penalties:
            path = None if penalty.balance is None else self.last_tap(penalty)
            if path is not None:
                watched[path].append(penalty.balance.watch_task)
        edits = {path: _chain(functions) for path, functions in watched.items()}
        self.tapped = Tapped(network, paths, edits)

    def values(self, x, y, outputs, taps, *, training):
        """Of each penalty its value, and the tensors that it looked at."""
        found = []
        for penalty, seen in zip(self.penalties, self._seen(x, outputs, taps), strict=True):
            tensors = [each.value for each in seen]
            if penalty.balance is not None and training:
                penalty.balance.update()
                tensors = penalty.balance.watch_penalty(tensors)
            seen = [each._replace(value=x) for each, x in zip(seen, tensors, strict=True)]
            found.append((self._value(penalty, seen, y), tensors))
        return found

    def watched_outputs(self, outputs):
        """The outputs, where the balanced penalties on them see the gradient of the loss."""
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
        """Raise where a weight is balanced with a loss of the task, which there is not."""
        for penalty in self.penalties:
            if penalty.balance is not None:
                raise ValueError(
                    f"The penalty '{penalty.name}' has nothing to be balanced with. Expected a "
                    "loss of the task. Received: a model compiled without one. Give compile() a "
                    "loss, or the penalty a number as its weight."
                )

    @staticmethod
    def last_tap(penalty):
        """The last layer of the trained network that a penalty looks at; ``None``, the output."""
        raise NotImplementedError

    @staticmethod
    def places(penalty):
        """Names of all that a penalty looks at."""
        raise NotImplementedError

    def _seen(self, x, outputs, taps):
        """Of each penalty what it looks at, a list of `Seen`."""
        raise NotImplementedError

    def _value(self, penalty, seen, y):
        """The value of a penalty, a scalar tensor."""
        raise NotImplementedError


class OneNetwork(Plan):
    """Penalties on the layers of one network.

    Args:
        base: The model.
        penalties: List of `Penalty`.
    """

    def __init__(self, base, penalties):
        penalties = [base_penalty(penalty, base) for penalty in check_penalties(penalties)]
        paths = [path for p in penalties if p.taps is not None for path in layer_taps(p)]
        super().__init__(base, penalties, paths)

    @staticmethod
    def last_tap(penalty):
        return None if penalty.taps is None else layer_taps(penalty)[-1]

    @staticmethod
    def places(penalty):
        return ["the output"] if penalty.taps is None else layer_taps(penalty)

    def positions(self):
        """Where the tapped layers stand, for a file."""
        return {
            path: position_of(self.network, path)
            for penalty in self.penalties
            if penalty.taps is not None
            for path in layer_taps(penalty)
        }

    def _seen(self, x, outputs, taps):
        return [
            [seen_output(self.network, x, outputs)]
            if penalty.taps is None
            else [taps[path] for path in layer_taps(penalty)]
            for penalty in self.penalties
        ]

    def _value(self, penalty, seen, y):
        labels = labels_of(penalty, y) if loss_needs_labels(penalty.loss) else None
        return loss_on_layers(penalty.loss, [each.pooled_for(penalty) for each in seen], labels)


class TeacherStudent(Plan):
    """Penalties that compare the layers of a teacher with those of a student.

    Args:
        teacher: The teacher, or ``None`` until there is one.
        student: The model that is trained.
        penalties: List of `Penalty`.
        teacher_inputs: Function from the student's inputs to the teacher's, or ``None``.
    """

    def __init__(self, teacher, student, penalties, teacher_inputs=None):
        penalties = [
            located_pairs(penalty, teacher, student) for penalty in check_penalties(penalties)
        ]
        self.pairs = [teacher_student_taps(penalty) for penalty in penalties]
        self.teacher_inputs = teacher_inputs
        # Where the layers of the teacher stood in a file that was written without it.
        self.teacher_positions = {}
        paths = [path for pairs in self.pairs for _, path in pairs if path is not None]
        super().__init__(student, penalties, paths)
        self.set_teacher(teacher)

    @staticmethod
    def last_tap(penalty):
        return teacher_student_taps(penalty)[-1][1]

    @staticmethod
    def places(penalty):
        return [
            f"{name or 'the output'} of the {network}"
            for pair in teacher_student_taps(penalty)
            for network, name in zip(("teacher", "student"), pair, strict=True)
        ]

    @property
    def teacher(self):
        return self._teacher.model

    def set_teacher(self, teacher):
        paths = [path for pairs in self.pairs for path, _ in pairs if path is not None]
        self._teacher_paths = {path: self._in_teacher(teacher, path) for path in paths}
        self._teacher = Tapped(teacher, [] if teacher is None else self._teacher_paths.values())
        if teacher is not None:
            self._check_single_outputs(teacher)
            self.teacher_positions = {
                path: position_of(teacher, now) for path, now in self._teacher_paths.items()
            }

    @property
    def without_teacher(self):
        """The plan as it is saved without its teacher."""
        plan = copy.copy(self)
        plan._teacher = Tapped(None)
        return plan

    def positions(self):
        """Where the tapped layers stand, for a file."""
        student = {
            path: position_of(self.network, path)
            for pairs in self.pairs
            for _, path in pairs
            if path is not None
        }
        return {"teacher": self.teacher_positions, "student": student}

    def _in_teacher(self, teacher, path):
        """The path of a layer in a teacher that may name it anew since a file was written."""
        position = self.teacher_positions.get(path)
        if teacher is None or not position or has_path(teacher, path):
            return path
        return path_at(teacher, path, position)

    def _seen(self, x, outputs, taps):
        inputs, cached = split_cached(x)
        ours = {**taps, None: seen_output(self.network, inputs, outputs)}
        if cached is None:
            asked = self._asked_teacher(inputs)
        else:
            self._check_cached(cached)

        def theirs(penalty, path):
            return asked[path] if cached is None else Seen.ready(cached[cached_name(path, penalty)])

        return [
            [each for path, own in pairs for each in (theirs(penalty, path), ours[own])]
            for penalty, pairs in zip(self.penalties, self.pairs, strict=True)
        ]

    def _check_cached(self, cached):
        needed = {
            cached_name(path, penalty)
            for penalty, pairs in zip(self.penalties, self.pairs, strict=True)
            for path, _ in pairs
        }
        if needed - set(cached):
            raise ValueError(
                "The cache does not hold what the penalties need. Expected "
                f"{sorted(needed)}. Received: {sorted(cached)}. Write it anew with "
                "lgg.teacher_cache(teacher, penalties, data) and these penalties."
            )

    def _asked_teacher(self, inputs):
        """What the teacher makes of a batch, by path; ``None`` is its output."""
        if self.teacher is None:
            raise ValueError(
                "The distiller has no teacher. Expected one for fit() and evaluate(), or data from "
                "lgg.teacher_cache. Received: neither. Assign it first, distiller.teacher = "
                "teacher, or cache what it says about the data."
            )
        if self.teacher_inputs is not None:
            inputs = self.teacher_inputs(inputs)
        _check_inputs(self.teacher, inputs)
        outputs, taps = self._teacher.infer(inputs)
        found = {path: taps[now] for path, now in self._teacher_paths.items()}
        return {**found, None: seen_output(self.teacher, inputs, outputs)}

    def _value(self, penalty, seen, y):
        values = [
            _distillation_value(penalty, teacher, student, y)
            for teacher, student in zip(seen[::2], seen[1::2], strict=True)
        ]
        return sum(values) / len(values)

    def _check_single_outputs(self, teacher):
        for penalty, pairs in zip(self.penalties, self.pairs, strict=True):
            if is_keras_distillation(penalty.loss):
                continue
            for side, network in enumerate((teacher, self.network)):
                outputs = getattr(network, "outputs", None) or [None]
                if len(outputs) > 1 and any(pair[side] is None for pair in pairs):
                    kind = ("teacher", "student")[side]
                    raise ValueError(
                        f"The penalty '{penalty.name}' cannot tell which output of the {kind} it "
                        f"acts on. Expected `taps` in a model of several outputs. Received: "
                        f"taps={penalty.taps} with {len(outputs)} outputs of '{network.name}'. "
                        f"Name one of them: {network.output_names}."
                    )


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


def _distillation_value(penalty, teacher, student, y):
    loss, mask = penalty.loss, student.mask_for(penalty)
    theirs, ours = (each.pooled_for(penalty) for each in (teacher, student))
    if is_keras_distillation(loss):
        loss.validate_outputs(theirs, ours)
        value = _share_of_functions(loss).compute_loss(theirs, ours)
        return value if mask is None or penalty.pool else value / _mean_of_mask(mask)
    if getattr(loss, "needs_labels", False):
        return ops.sum(loss((theirs, labels_of(penalty, y)), ours))
    return ops.sum(loss(theirs, ours))


def _mean_of_mask(mask):
    """The share of positions that count: Keras's losses are means over all of them."""
    share = ops.mean(ops.cast(mask, "float32"))
    return ops.where(share > 0, share, 1.0)


def _share_of_functions(loss):
    """A loss of `keras.distillation` whose value is a replica's share, as of Keras loss objects.

    Keras divides what a loss object returns by the number of replicas, but not what a function
    returns, to which a name such as "mse" resolves.
    """
    replica_count = replicas.local_count()
    if replica_count == 1:
        return loss

    def share(function):
        if function is None or isinstance(function, keras.losses.Loss):
            return function
        return lambda teacher, student: ops.mean(function(teacher, student)) / replica_count

    divided = copy.copy(loss)
    divided.loss = keras.tree.map_structure(share, loss.loss)
    return divided


def _check_inputs(teacher, inputs):
    """Raise where a teacher that says what it takes would refuse these inputs."""
    wanted = internals.inputs_by_name(teacher, internals.symbolic_input(teacher))
    given = internals.inputs_by_name(teacher, inputs)
    for name, tensor in wanted.items():
        shape = tuple(tensor.shape)
        if name in given and not _fits(shape, tuple(given[name].shape)):
            raise ValueError(
                f"The teacher '{teacher.name}' does not take the student's inputs. Expected "
                f"'{name}' of shape {shape}. Received: shape {tuple(given[name].shape)}. Say how "
                "the teacher sees the data: lgg.Distiller(..., teacher_inputs=function), a "
                "function of the student's inputs or a Keras layer."
            )


def _fits(wanted, given):
    """Whether an input may have a shape; Keras adds or drops a last axis of 1 by itself."""
    if len(wanted) != len(given):
        longer, shorter = sorted((wanted, given), key=len, reverse=True)
        return len(longer) == len(shorter) + 1 and longer[-1] in (1, None)
    return all(a is None or b is None or a == b for a, b in zip(wanted[1:], given[1:], strict=True))
