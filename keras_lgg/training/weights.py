"""Weights of penalties: variables that callbacks may read and assign at any time."""

import weakref

import keras

from keras_lgg.training import internals

DEFAULT = -1.0  # no weight given; not NaN, which users look for among the weights of a model


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
