"""Weights of penalties: variables that callbacks may read and assign at any time."""

import weakref

import keras
from keras import ops

from keras_lgg.training import internals

DEFAULT = -1.0  # no weight given; not NaN, which users look for among the weights of a model
# Training steps until a default weight has its full strength: before anything is learnt, a strong
# penalty can lead a network to where the loss of the task is flat.
WARM_UP = 100


class PenaltyWeight(keras.Variable):
    """The weight of a penalty.

    On JAX, `fit` keeps the values of a model's variables elsewhere until the epoch ends: a callback
    would read the first value, and what it assigns would be lost. This variable first asks the
    models that train with it for the current values.

    Args:
        weight: A number of at least 0, or `DEFAULT`, which stands for that of the loss.
        name: Name of the variable.
    """

    def __init__(self, weight, name):
        self._models = weakref.WeakSet()
        self._is_asking = False
        # If so, a number may be assigned while a compiled step holds on to the variable, and each
        # step has to look; a number stays a number.
        self.may_be_default = weight == DEFAULT
        super().__init__(float(weight), trainable=False, dtype="float32", autocast=False, name=name)

    def belongs_to(self, model):
        """Register a model that trains with it."""
        self._models.add(model)

    @property
    def value(self):
        if self._value is None:
            self._ask_models()
        return super().value

    def assign(self, value):
        self._ask_models()
        return super().assign(value)

    def _ask_models(self):
        if keras.backend.backend() != "jax" or self._is_asking or internals.is_stateless():
            return
        self._is_asking = True
        if not self._models:
            self._models.update(internals.training_models_of(self))
        try:
            for model in list(self._models):
                model.jax_state_sync()
        finally:
            self._is_asking = False


def counted_steps(weight):
    """A variable that counts the steps of a warm-up, or ``None`` for a weight that has none."""
    if not weight.may_be_default:
        return None
    return keras.Variable(
        ops.zeros(()),
        trainable=False,
        dtype="float32",
        autocast=False,
        aggregation="only_first_replica",
        name="penalty_steps",
    )


def next_share(steps):
    """The share of a default weight in the present step, which is counted."""
    reached = ops.minimum(steps + 1.0, float(WARM_UP))
    steps.assign(reached)
    return reached / WARM_UP


def mean_share(steps, last):
    """The mean share of a default weight over the last few of the steps that were counted."""
    shares = [min(max(steps - i, 0.0), WARM_UP) / WARM_UP for i in range(last)]
    return sum(shares) / last


def unassignable(penalty, value):
    """The error for ``penalty.weight = value``."""
    if penalty.balance is not None:
        return ValueError(
            f"The weight of '{penalty.name}' is balanced. Expected to be left to the training. "
            f"Received: penalty.weight = {value!r}. Give the penalty a number as its weight."
        )
    return ValueError(
        f"The weight of '{penalty.name}' is a variable. Expected penalty.weight.assign(number), "
        f"which acts at the next step. Received: penalty.weight = {value!r}."
    )
