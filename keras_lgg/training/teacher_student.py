"""What penalties need from a teacher and a student in one step."""

import copy

import keras
from keras import ops

from keras_lgg.losses import replicas
from keras_lgg.losses.base import mean
from keras_lgg.training import internals
from keras_lgg.training.parts import in_parts
from keras_lgg.training.paths import has_path, path_at, position_of
from keras_lgg.training.penalties import (
    check_penalties,
    is_keras_distillation,
    located_pairs,
    remembering,
    teacher_student_taps,
)
from keras_lgg.training.plans import Plan, View, labels_of
from keras_lgg.training.taps import Tapped, seen_output, still
from keras_lgg.training.teacher_cache import cached_name, split_cached


class TeacherStudent(Plan):
    """Penalties that compare the layers of a teacher with those of a student.

    Args:
        teacher: The teacher, or ``None`` until there is one.
        student: The model that is trained.
        penalties: List of `Penalty`.
        teacher_inputs: Function from the student's inputs to the teacher's, or ``None``.
        micro_batch: See `Plan`; it applies to the teacher, too.
    """

    def __init__(self, teacher, student, penalties, teacher_inputs=None, micro_batch=None):
        penalties = [
            located_pairs(penalty, teacher, student) for penalty in check_penalties(penalties)
        ]
        self.pairs = [teacher_student_taps(penalty) for penalty in penalties]
        self.teacher_inputs = teacher_inputs
        # Where the layers of the teacher stood in a file that was written without it.
        self.teacher_positions = {}
        paths = [path for pairs in self.pairs for _, path in pairs if path is not None]
        super().__init__(student, penalties, paths, micro_batch)
        self.set_teacher(teacher)

    @staticmethod
    def own_taps(penalty):
        return [path for _, path in teacher_student_taps(penalty)]

    def _tapped_shapes(self):
        return None if self.teacher is None else super()._tapped_shapes()

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

    def check_memories(self):
        """Raise if the memories hold representations of other shapes than this teacher's."""
        if not any(self._memories):
            return
        now = self._memories_for(internals.symbolic_inputs(self.network)[0])
        for penalty, *both in zip(self.penalties, self._memories, now, strict=True):
            kept, given = ([memory.shapes for memory in memories or []] for memories in both)
            if kept != given:
                raise ValueError(
                    f"The teacher does not fit the memory of the penalty '{penalty.name}'. "
                    f"Expected representations of shapes {kept}, teacher first. Received: {given}. "
                    "Make a new Distiller for this teacher."
                )

    @property
    def without_teacher(self):
        """The plan as it is saved without its teacher."""
        plan = copy.copy(self)
        plan._teacher = Tapped(None)
        return plan

    def positions(self):
        """Where the tapped layers stand in both networks, to be saved in a file."""
        student = {
            path: position_of(self.network, path)
            for pairs in self.pairs
            for _, path in pairs
            if path is not None
        }
        return {"teacher": self.teacher_positions, "student": student}

    def _in_teacher(self, teacher, path):
        """The path of a layer in a teacher that may have renamed it since a file was written."""
        position = self.teacher_positions.get(path)
        if teacher is None or not position or has_path(teacher, path):
            return path
        return path_at(teacher, path, position)

    def _seen(self, penalty, inputs, outputs, taps):
        output = seen_output(self.network, inputs, outputs)
        return [output if path is None else taps[path] for _, path in teacher_student_taps(penalty)]

    def values(self, x, y, views, training):
        inputs, cached = split_cached(x)
        theirs = self._asked_teacher(inputs) if cached is None else self._cached_views(cached)
        found = []
        sides = zip(self.penalties, theirs, views, self._memories_in(training), strict=True)
        for penalty, teacher, student, past in sides:
            pairs = list(zip(teacher, student, strict=True))
            values = [
                _distillation_value(penalty, *pair, y, remembering(penalty.loss, past, i))
                for i, pair in enumerate(pairs)
            ]
            tensors = [view.vectors for pair in pairs for view in pair]
            found.append((mean(values), tensors))
        return found

    def _shapes(self, inputs):
        both = zip(self._asked_teacher(inputs), self.inferred_views(inputs), strict=True)
        return [
            [(a.vectors, b.vectors) for a, b in zip(theirs, ours, strict=True)]
            for theirs, ours in both
        ]

    def _cached_views(self, cached):
        self._check_cached(cached)
        return [
            [View(cached[cached_name(path, penalty)]) for path, _ in pairs]
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
                f"{sorted(needed)}. Received: {sorted(cached)}. Write it again with "
                "lgg.teacher_cache(teacher, penalties, data) and these penalties."
            )

    def _asked_teacher(self, inputs):
        """For each penalty, what it reads from the teacher, a list of `View`."""
        if self.teacher is None:
            raise ValueError(
                "The distiller has no teacher. Expected one for fit() and evaluate(), or data from "
                "lgg.teacher_cache. Received: neither. Assign it first, distiller.teacher = "
                "teacher, or cache what it returns for the data."
            )
        if self.micro_batch is None:
            return self._teacher_views(inputs)
        views = in_parts(self._teacher_views, inputs, self.micro_batch, self.teacher)
        return keras.tree.map_structure(still, views)

    def _teacher_views(self, inputs):
        if self.teacher_inputs is not None:
            inputs = self.teacher_inputs(inputs)
        _check_inputs(self.teacher, inputs)
        outputs, taps = self._teacher.infer(inputs)
        seen = {path: taps[now] for path, now in self._teacher_paths.items()}
        seen[None] = seen_output(self.teacher, inputs, outputs)
        return [
            self._views(penalty, [seen[path] for path, _ in pairs])
            for penalty, pairs in zip(self.penalties, self.pairs, strict=True)
        ]

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


def _distillation_value(penalty, teacher, student, y, loss):
    """The value of a penalty's loss, if need be with its memory, on one pair of layers."""
    theirs, ours = teacher.vectors, student.vectors
    if is_keras_distillation(penalty.loss):
        loss.validate_outputs(theirs, ours)
        value = _share_of_functions(loss).compute_loss(theirs, ours)
        return value if student.mask is None else value / _mean_of_mask(student.mask)
    if getattr(penalty.loss, "needs_labels", False):
        return ops.sum(loss((theirs, labels_of(penalty, y)), ours))
    return ops.sum(loss(theirs, ours))


def _mean_of_mask(mask):
    """The share of positions that count: Keras's losses are means over all of them."""
    share = ops.mean(ops.cast(mask, "float32"))
    return ops.where(share > 0, share, 1.0)


def _share_of_functions(loss):
    """A loss of `keras.distillation` whose value is a replica's share, as for Keras loss objects.

    Keras divides what a loss object returns by the number of replicas, but not what a function
    returns, and a name such as "mse" resolves to a function.
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
    """Raise if a teacher with known input shapes would refuse these inputs."""
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
    """Whether an input may have this shape; Keras itself adds or drops a last axis of 1."""
    if len(wanted) != len(given):
        longer, shorter = sorted((wanted, given), key=len, reverse=True)
        return len(longer) == len(shorter) + 1 and longer[-1] in (1, None)
    return all(a is None or b is None or a == b for a, b in zip(wanted[1:], given[1:], strict=True))
