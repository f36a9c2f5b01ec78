"""Geometry losses as layers inside your own models, and how to take them out again."""

import contextlib
from typing import Any, Self

import keras
from keras import ops

from keras_lgg.graphs.pooling import check_pool, mask_of, pooled
from keras_lgg.losses import replicas
from keras_lgg.training import internals
from keras_lgg.training.penalties import (
    balance_of,
    check_loss,
    checked_weight,
    is_keras_distillation,
    loss_needs_labels,
    loss_on_layers,
    memories_of,
    restored,
    saved_weight,
    weighted_value,
)
from keras_lgg.training.rebuilding import is_graph, layers_of, rebuilt
from keras_lgg.training.weights import PenaltyWeight, counted_steps, unassignable
from keras_lgg.types import Tensor


@keras.saving.register_keras_serializable("keras_lgg")
class GeometryPenalty(keras.layers.Layer):
    """Adds a loss on the latent geometry to the model, and returns its input unchanged.

    ``weight * loss`` is added to the model's losses by `add_loss`, so that plain ``compile`` and
    ``fit`` train with it. The layer has no effect on the model's outputs. The unweighted value is
    logged under the name of the layer, except on JAX, where Keras keeps metrics out of the forward
    pass.

    Args:
        loss: A loss of `keras_lgg.losses` that needs no teacher, or a Keras loss of
            ``(labels, representation)``.
        weight: Factor of the loss, at least 0, kept as the variable ``layer.weight``. ``None`` is
            the default of the loss for the size of the batch, reached in even steps over the first
            100 steps of training. ``"balanced"`` keeps the gradient of the loss at ``fraction`` of
            that of the task, see `Penalty`, measured at the last of the inputs.
        pool: How a representation ``(n, T, ..., c)`` with positions becomes one vector per sample:
            ``None`` flattens it, ``"mean"`` and ``"max"`` run over the positions, ``"first"`` and
            ``"last"`` pick one. Positions masked in Keras do not count.
        fraction: Positive fraction for a balanced weight; 0.1 by default.
        **kwargs: ``name`` and the other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: A representation ``(n, ...)``, or a list of them, in their order along the depth.
            A loss on single layers is averaged over the list.
        labels: Class labels of the batch, if the loss needs them: for instance an input of the
            model.

    Returns:
        The last of the inputs, with its mask.

    Raises:
        ValueError: If the loss cannot act: labels are missing, a loss across layers has only one
            layer, or a distillation loss has no teacher here.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> x = keras.Input((8,))
        >>> h1 = keras.layers.Dense(16, "relu")(x)
        >>> h2 = keras.layers.Dense(16, "relu")(h1)
        >>> h2 = lgg.layers.GeometryPenalty(lgg.losses.GraphVariation(), weight=0.1)([h1, h2])
        >>> model = keras.Model(x, keras.layers.Dense(3, "softmax")(h2))
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> _ = model.fit(np.zeros((6, 8)), np.arange(6) % 3, verbose=0)

    Reference: Lassance, Gripon, Ortega, "Representing Deep Neural Networks Latent Space Geometries
    with Graphs", Algorithms 14(2):39, 2021.
    """

    def __init__(
        self,
        loss: keras.losses.Loss,
        weight: float | str | None = None,
        *,
        pool: str | None = None,
        fraction: float | None = None,
        **kwargs: Any,
    ) -> None:
        # Inputs must come out unchanged, and labels must not be rounded to float16.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.supports_masking = True
        self.loss = check_loss(loss)
        if is_keras_distillation(loss) or getattr(loss, "needs_teacher", False):
            raise ValueError(
                f"The layer '{self.name}' has no teacher. Expected a loss on one network. "
                f"Received: {type(loss).__name__}, which compares a teacher with a student. "
                "Use keras_lgg.Distiller(teacher, student, penalties)."
            )
        check_pool(pool)
        self.pool = pool
        self.balance, self._steps = balance_of(weight, fraction), None
        if self.balance is None:
            with self._open_name_scope():
                self._weight = PenaltyWeight(checked_weight(weight), "weight")
                self._steps = counted_steps(self._weight)
        else:  # in a list, where Keras finds them
            self._weight = self.balance.variables
        # On JAX, Keras keeps the metrics out of the forward pass.
        is_logged = keras.backend.backend() != "jax"
        self._value = keras.metrics.Mean(name=self.name) if is_logged else None
        # Batches of training in which the value was not finite, for `callbacks.GeometryGuard`.
        self.not_finite = self.add_weight(
            shape=(),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="sum",
            name="not_finite",
        )

    @property
    def weight(self) -> keras.Variable | Tensor:
        return self._weight if self.balance is None else self.balance.weight

    @weight.setter
    def weight(self, value: Any) -> None:
        raise unassignable(self, value)

    def call(self, inputs: Tensor, labels: Tensor | None = None, training: bool = False) -> Tensor:
        layers = inputs if isinstance(inputs, list | tuple) else [inputs]
        self._check_can_act(layers, labels)
        last, masks = layers[-1], [mask_of(x) for x in layers]
        model = internals.entry_model()
        if model is not None and self.balance is None:
            self._weight.belongs_to(model)
        if self.balance is not None and training:
            self.balance.update()
            last, layers = self.balance.watch_task(last), self.balance.watch_penalty(layers)
        vectors = [pooled(x, mask, self.pool) for x, mask in zip(layers, masks, strict=True)]
        value = loss_on_layers(self.loss, vectors, labels, self._memories if training else None)
        if training:
            finite = ops.isfinite(ops.stop_gradient(value))
            self.not_finite.assign_add(1.0 - ops.cast(finite, "float32"))
        # Keras divides added losses by the number of replicas; the value is a replica's share.
        value, batch = value * replicas.local_count(), ops.shape(last)[0]
        if self._value is not None:
            self._value.update_state(value, sample_weight=batch)
        self.add_loss(weighted_value(self, value, batch, training))
        return last

    def build(self, input_shape: Any) -> None:
        several = isinstance(input_shape[0], list | tuple)
        shapes = [
            (shape[0], shape[-1]) if self.pool and len(shape) > 2 else tuple(shape)
            for shape in (input_shape if several else [input_shape])
        ]
        self._memories = memories_of(self.loss, shapes)
        # In a list, where Keras finds them.
        self._past = [variable for m in self._memories or [] for variable in m.variables]
        self.built = True

    def compute_output_spec(
        self, inputs: Tensor, labels: Tensor | None = None, training: bool = False
    ) -> keras.KerasTensor:
        layers = inputs if isinstance(inputs, list | tuple) else [inputs]
        self._check_can_act(layers, labels)
        return keras.KerasTensor(layers[-1].shape, dtype=layers[-1].dtype)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return previous_mask[-1] if isinstance(previous_mask, list | tuple) else previous_mask

    def _check_can_act(self, layers, labels):
        if loss_needs_labels(self.loss) and labels is None:
            raise ValueError(
                f"The layer '{self.name}' needs class labels. Expected them as an argument, for "
                f"{type(self.loss).__name__}. Received: labels=None. Make the labels an input of "
                "the model and call layer(x, labels=labels_input)."
            )
        if getattr(self.loss, "across_layers", False) and len(layers) < 2:
            raise ValueError(
                f"The layer '{self.name}' compares layers with each other. Expected a list of at "
                f"least two representations, for {type(self.loss).__name__}. Received: "
                f"{len(layers)}. Call layer([h1, h2])."
            )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "loss": keras.saving.serialize_keras_object(self.loss),
            **saved_weight(self),
            "pool": self.pool,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return restored(cls, config)


def without_penalties(model: keras.Model) -> keras.Model:
    """The model to deploy: the same layers and weights, without any `GeometryPenalty`.

    It can be loaded without this package, and an export of it holds no trace of a penalty:
    ``without_penalties(model).export(path)``.

    Args:
        model: Functional or Sequential model; models nested in it are searched, too.

    Returns:
        A `keras.Model` that shares the layers of ``model``. Inputs that only penalties read, such
        as labels, are gone; if a single one remains of a list of inputs, the model takes it without
        a list.

    Raises:
        ValueError: If the model is not a graph of layers.

    Example:
        >>> import keras, keras_lgg as lgg
        >>> x = keras.Input((8,), name="x")
        >>> y = keras.Input((), dtype="int32", name="labels")
        >>> z = keras.layers.Dense(4, name="z")(x)
        >>> out = lgg.layers.GeometryPenalty(lgg.losses.GraphSmoothness())(z, labels=y)
        >>> model = keras.Model([x, y], out)
        >>> [layer.name for layer in lgg.layers.without_penalties(model).layers]
        ['x', 'z']
    """

    def replace(layer, _):
        if isinstance(layer, GeometryPenalty):
            return _last_input
        holds_some = is_graph(layer) and layers_of(layer, GeometryPenalty)
        return without_penalties(layer) if holds_some else layer

    return rebuilt(model, replace, "The penalties", inputs_of=_read_inputs)


def _last_input(inputs, *_, **__):
    """What a `GeometryPenalty` returns."""
    return inputs[-1] if isinstance(inputs, list | tuple) else inputs


def _read_inputs(graph):
    """The inputs of a Functional model that its outputs depend on, in the original structure."""
    if not isinstance(graph.input, list | tuple | dict):
        return graph.input
    named = graph.input if isinstance(graph.input, dict) else dict(enumerate(graph.input))
    for name in list(named):
        others = {other: x for other, x in named.items() if other != name}
        with contextlib.suppress(ValueError):  # that the outputs cannot be reached from the others
            keras.Model(list(others.values()), graph.output)
            named = others
    if isinstance(graph.input, dict):
        return named
    return list(named.values()) if len(named) > 1 else next(iter(named.values()))
