"""The layer of relative representations, and models that hold it."""

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import keras
import numpy as np
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.numerics import flatten_representation
from keras_lgg.relative import projection
from keras_lgg.training.rebuilding import is_graph, layers_of, rebuilt
from keras_lgg.types import ArrayLike, Tensor


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(projection.relative_projection)
class RelativeRepresentation(keras.layers.Layer):
    """Describes each sample by its similarities to fixed anchors.

    The anchors come in one of three ways:

    * ``RelativeRepresentation(anchors)(z)``: their representations are given, and stay;
    * ``RelativeRepresentation(anchor_inputs, encoder=encoder)(x)``: what the encoder takes is
      given, and the encoder runs inside the layer, on the batch and on the anchors. This trains an
      encoder end to end: the anchors move with it, and gradients reach it through the batch
      alone. `with_fixed_anchors` gives the model to deploy;
    * ``RelativeRepresentation()(z, anchors=a)``: with each call.

    Args:
        anchors: Array ``(K, ...)`` of at least 2 anchors in their order, which both halves of a
            stitched model must share; or, with an ``encoder``, its inputs ``(K, ...)``.
        encoder: Model or layer from inputs ``(n, ...)`` to representations ``(n, ...)``.
        bin_size: Steps to round the codes to, see `keras_lgg.relative.quantize`; ``None`` for
            none.
        quantization: ``"ste_round"`` or ``"smooth_steps"``, with a ``bin_size``.
        anchor_labels: Class of each anchor; the code then holds the mean similarity to each
            class, see `keras_lgg.relative.class_codes`.
        indices: Which samples of the training set the anchors are, as `select_anchors` gives
            them. `stitching_matrix` refuses models whose lists differ.
        refresh_every: In training, anchors are encoded in every so many steps, and kept in
            between; with an ``encoder`` alone. Outside of training they always are.
        anchor_training: ``"inherit"``: in training, the encoder sees the anchors in training
            mode, too, so its BatchNormalization moves twice a step; ``False``: at inference.
        **kwargs: ``name`` and the other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Representations ``(n, ...)``, or inputs of the encoder.
        anchors: Representations of the anchors ``(K, ...)``, in a layer that holds none. No
            gradient reaches them.

    Returns:
        Codes ``(n, K)`` in the compute dtype of the layer, computed in float32 at least; see
        `keras_lgg.relative.relative_projection` for the shape with several similarities.

    Raises:
        ValueError: If an option is unknown, or anchors are missing, fewer than 2, not finite, or
            of another width than the representations.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> x = np.random.default_rng(0).random((100, 8), "float32")
        >>> layer = lgg.layers.RelativeRepresentation(x[:5], encoder=encoder)
        >>> model = keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(3, "softmax")])
        >>> layer(x[:5]).shape == (5, 5)
        True

    Reference: Moschella et al., ICLR 2023, https://arxiv.org/abs/2209.15430
    """

    def __init__(
        self,
        anchors: Tensor | None = None,
        *,
        encoder: keras.layers.Layer | None = None,
        similarity: str | Sequence[str] = "cosine",
        normalization: str = "none",
        pool: str = "concat",
        p: float = 2.0,
        bin_size: float | None = None,
        quantization: str = "ste_round",
        anchor_labels: ArrayLike | None = None,
        indices: ArrayLike | None = None,
        refresh_every: int = 1,
        anchor_training: Literal["inherit", False] = "inherit",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("autocast", False)  # the geometry is computed in float32 at least
        super().__init__(**kwargs)
        self._names = projection.similarity_names(similarity)
        checks.check_choice("normalization", normalization, projection.NORMALIZATIONS)
        checks.check_choice("pool", pool, projection.POOLS)
        projection.check_exponent(p)
        checks.check_choice("quantization", quantization, projection.QUANTIZATIONS)
        if bin_size is not None:
            checks.check_positive("bin_size", bin_size)
        checks.check_positive_integer("refresh_every", refresh_every)
        checks.check_choice("anchor_training", anchor_training, ("inherit", False))
        if encoder is None and (refresh_every != 1 or anchor_training is False):
            raise checks.invalid("encoder", "a model, which alone encodes anchors anew", "None")
        self.similarity, self.normalization, self.pool, self.p = similarity, normalization, pool, p
        self.bin_size, self.quantization = bin_size, quantization
        self.refresh_every, self.anchor_training = refresh_every, anchor_training
        self.anchor_labels = _integers("anchor_labels", anchor_labels)
        self.indices = _integers("indices", indices)
        self.encoder = encoder
        self.anchor_inputs: Any = None  # a variable, in a layer with an encoder
        self._kept: dict[str, Any] = {}
        if anchors is not None and not isinstance(anchors, keras.KerasTensor):
            anchors = ops.convert_to_numpy(anchors)
        if encoder is not None:
            self._add_encoder(anchors)
        elif anchors is not None:
            self._add_anchors(anchors)

    def _add_encoder(self, inputs):
        """The inputs that are anchors and, where they are not always encoded, what they gave."""
        if not isinstance(self.encoder, keras.layers.Layer):
            raise checks.invalid("encoder", "a Keras model or layer", type(self.encoder).__name__)
        if inputs is None:
            raise checks.invalid("anchors", "the inputs of the encoder that are anchors", "None")
        if self.anchor_training is False and not self._mode(training=False):
            expected = "an encoder whose call() takes `training`, for anchor_training=False"
            raise checks.invalid("encoder", expected, type(self.encoder).__name__)
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        dtype = {"float64": self._float_dtype, "int64": "int32"}.get(dtype, dtype)
        self.anchor_inputs = self._add_state("anchor_inputs", inputs.shape, dtype)
        if not isinstance(inputs, keras.KerasTensor):
            self._check_anchors(inputs)
            self.anchor_inputs.assign(inputs)
        encoded = self.encoder(ops.convert_to_tensor(self.anchor_inputs[:2]))  # which builds it
        self._check_counts(inputs.shape[0])
        if self.refresh_every > 1:
            self._add_kept(inputs.shape[0], math.prod(encoded.shape[1:]))
            self._age = self._add_state("age", (), "int32")
            self._age.assign(self.refresh_every)

    def _add_anchors(self, anchors):
        self._check_counts(anchors.shape[0])
        self._add_kept(anchors.shape[0], math.prod(anchors.shape[1:]))
        if not isinstance(anchors, keras.KerasTensor):
            self._check_anchors(anchors)
            self._assign(self._kept, self._with_statistics(anchors.astype(self._float_dtype)))

    def _add_kept(self, count, width):
        """Weights for the representations of the anchors and their statistics."""
        whitens = self.normalization == "whiten"
        shapes = {
            "anchors": (count, width),
            "mean": (width,),
            "scale": (width, width) if whitens else (width,),
            "inverse": (width, count),
        }
        needed = projection.needed_statistics(self._names, self.normalization)
        for name in ("anchors", *sorted(needed)):
            self._kept[name] = self._add_state(name, shapes[name], self._float_dtype)

    def _add_state(self, name, shape, dtype):
        # Where nothing is loaded into a layer made from its config, its codes must not look right.
        missing = "nan" if dtype.startswith(("float", "bfloat")) else 0
        return self.add_weight(
            shape=tuple(shape),
            initializer=keras.initializers.Constant(float(missing)),
            trainable=False,
            dtype=dtype,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def _float_dtype(self):
        return "float64" if self.variable_dtype == "float64" else "float32"

    @property
    def anchors(self) -> Tensor | None:
        """The representations of the anchors ``(K, d)`` that the layer holds, a tensor."""
        if self.encoder is not None:
            return self._encoded(training=False)[0]["anchors"]
        return self._kept["anchors"].value if self._kept else None

    def call(self, inputs: Tensor, anchors: Tensor | None = None, training: bool = False) -> Tensor:
        self._check_one_source(anchors)
        if self.encoder is not None:
            inputs = self.encoder(inputs, **self._mode(training))
            state = self._encoded_in_step(training)
        elif anchors is not None:
            self._check_counts(anchors.shape[0])
            state = self._with_statistics(ops.stop_gradient(anchors))
        else:
            state = {name: variable.value for name, variable in self._kept.items()}
            # Anchors that were never loaded are NaN, which a normalisation takes for zero rows.
            inputs = inputs + ops.cast(0 * state["anchors"][0, 0], inputs.dtype)
        return ops.cast(self._codes(inputs, state), self.compute_dtype)

    def compute_output_spec(
        self, inputs: Tensor, anchors: Tensor | None = None, training: bool = False
    ) -> keras.KerasTensor:
        self._check_one_source(anchors)
        if self.encoder is not None:
            count = self.anchor_inputs.shape[0]
        else:
            held: Tensor = self._kept.get("anchors", anchors)
            count, *features = held.shape
            self._check_counts(count)
            if None not in (*features, *inputs.shape[1:]):
                widths = math.prod(inputs.shape[1:]), math.prod(features)
                projection.check_anchors(keras.KerasTensor((count, widths[1])), widths[0])
        if self.anchor_labels is not None:
            count = projection.class_averages(self.anchor_labels, count).shape[1]
        shape = (inputs.shape[0], count)
        if not isinstance(self.similarity, str):
            shape = projection.pooled_shape(*shape, len(self._names), self.pool)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def _check_one_source(self, anchors):
        held = self.encoder is not None or bool(self._kept)
        if (anchors is not None) == held:
            raise ValueError(
                f"The layer '{self.name}' needs its anchors from one place. Expected them in the "
                f"constructor or in each call. Received: {'both' if held else 'neither'}. Write "
                "RelativeRepresentation(anchors)(x), or RelativeRepresentation()(x, anchors=a)."
            )

    def _codes(self, x, state):
        stats = {name: value for name, value in state.items() if name != "anchors"}
        codes = projection.relative_projection(
            x,
            state["anchors"],
            similarity=self.similarity,
            normalization=self.normalization,
            pool="stack",
            p=self.p,
            stats=stats,
        )
        if self.bin_size is not None:
            codes = projection.quantize(codes, bin_size=self.bin_size, method=self.quantization)
        if self.anchor_labels is not None:
            codes = projection.class_codes(codes, self.anchor_labels)
        if isinstance(self.similarity, str) or self.pool == "stack":
            return codes
        return projection.pooled(ops.unstack(codes, axis=1), self.pool)

    def _with_statistics(self, anchors):
        anchors = flatten_representation(anchors)
        return {
            "anchors": anchors,
            **projection.anchor_statistics(
                anchors, similarity=self._names, normalization=self.normalization
            ),
        }

    def _encoded_in_step(self, training):
        """What the encoder makes of the anchors, with the updates of its state in training."""
        encoder_state = self.encoder.non_trainable_variables
        if not training:
            return self._encoded(training=False)[0]
        if self.refresh_every == 1:
            state, updated = self._encoded(training)
        else:
            due = ops.greater_equal(self._age.value, self.refresh_every)
            state, updated = ops.cond(
                due,
                lambda: self._encoded_to_keep(training),
                lambda: (
                    {name: variable.value for name, variable in self._kept.items()},
                    [variable.value for variable in encoder_state],
                ),
            )
            self._assign(self._kept, state)
            self._age.assign(ops.where(due, 1, self._age.value + 1))
        self._assign(dict(enumerate(encoder_state)), dict(enumerate(updated)))
        return state

    def _encoded(self, training):
        """The anchors and their statistics, and the encoder's state after it ran; no gradients."""
        # Stateless, so that it can run inside a conditional, and adds no losses of its layers.
        trainable, other = (
            [ops.stop_gradient(variable.value) for variable in variables]
            for variables in (
                self.encoder.trainable_variables,
                self.encoder.non_trainable_variables,
            )
        )
        training = training and self.anchor_training == "inherit"
        encoded, updated = self.encoder.stateless_call(
            trainable, other, self.anchor_inputs.value, **self._mode(training)
        )
        return self._with_statistics(ops.stop_gradient(encoded)), updated

    def _mode(self, training):
        """What tells the encoder whether it trains; a layer without such an argument does not."""
        takes = "training" in inspect.signature(self.encoder.call).parameters
        return {"training": training} if takes else {}

    def _encoded_to_keep(self, training):
        state, updated = self._encoded(training)
        return {name: ops.cast(x, self._kept[name].dtype) for name, x in state.items()}, updated

    def _assign(self, variables, values):
        for name, variable in variables.items():
            variable.assign(values[name])

    def _check_anchors(self, anchors):
        if anchors.dtype.kind == "f" and not np.isfinite(anchors).all():
            raise checks.invalid("anchors", "finite numbers", "a NaN or an infinity among them")

    def _check_counts(self, count):
        if count is None:  # known at run time alone
            return
        if count < 2:
            raise checks.invalid("anchors", "at least 2 anchors, one a row", f"{count} of them")
        if self.anchor_labels is not None:
            projection.class_averages(self.anchor_labels, count)
        if self.indices is not None and len(self.indices) != count:
            raise checks.invalid("indices", f"one for each of the {count} anchors", self.indices)

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "similarity": self.similarity,
            "normalization": self.normalization,
            "pool": self.pool,
            "p": self.p,
            "bin_size": self.bin_size,
            "quantization": self.quantization,
            "anchor_labels": self.anchor_labels,
            "indices": self.indices,
            "refresh_every": self.refresh_every,
            "anchor_training": self.anchor_training,
        }
        held = self._kept.get("anchors") if self.encoder is None else self.anchor_inputs
        if held is not None:  # the numbers themselves are weights
            config["anchors"] = {"shape": list(held.shape), "dtype": held.dtype}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = {**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])}
        if "anchors" in config:
            config["anchors"] = keras.KerasTensor(**config["anchors"])
        return cls(**config)

    def fixed(self) -> Self:
        """A layer of the same codes that holds the anchors as the encoder sees them now."""
        if self.encoder is None:
            return self
        config = {**self.get_config(), "refresh_every": 1, "anchor_training": "inherit"}
        for name in ("encoder", "anchors"):
            config.pop(name)
        return type(self)(ops.convert_to_numpy(self.anchors), **config)


def with_fixed_anchors(model: keras.Model) -> keras.Model:
    """The model to deploy: `RelativeRepresentation` layers no longer encode their anchors.

    A layer with an encoder runs it on every anchor at every call, so that its codes are those of
    the encoder as it is. Once it is trained, the representations of the anchors can stay.

    Args:
        model: Functional or Sequential model; models nested in it are searched, too.

    Returns:
        A `keras.Model` that shares the layers of ``model``; in place of each layer with an encoder
        stand the encoder and a `RelativeRepresentation` of fixed anchors. Training it further
        would move the encoder away from them: train ``model`` itself.

    Raises:
        ValueError: If the model is not a graph of layers.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> x = np.random.default_rng(0).random((20, 8), "float32")
        >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)], name="encoder")
        >>> layer = lgg.layers.RelativeRepresentation(x[:5], encoder=encoder, name="codes")
        >>> model = keras.Sequential([keras.Input((8,)), layer])
        >>> deployed = lgg.layers.with_fixed_anchors(model)
        >>> [layer.name for layer in deployed.layers[1:]], deployed.predict(x, verbose=0).shape
        (['encoder', 'codes'], (20, 5))
    """

    def replace(layer, call):
        if isinstance(layer, RelativeRepresentation) and layer.encoder is not None:
            fixed = layer.fixed()
            return lambda *args, **kwargs: fixed(call(layer.encoder, *args, **kwargs))
        holds_some = is_graph(layer) and layers_of(layer, RelativeRepresentation)
        return with_fixed_anchors(layer) if holds_some else layer

    return rebuilt(model, replace, "The anchors")


def _integers(argument, values):
    """A list of integers, as it can be saved."""
    if values is None:
        return None
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise checks.invalid(argument, "a list of integers", f"{values.dtype} {values.shape}")
    return values.tolist()
