"""The layer of relative representations."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal, Self

import keras
import numpy as np
from keras import ops

from keras_lgg import checks
from keras_lgg.graphs.arrays import host_array
from keras_lgg.graphs.pooling import POOLS, mask_of
from keras_lgg.relative import positions, projection, stored, structures
from keras_lgg.types import ArrayLike, Samples, Tensor


@keras.saving.register_keras_serializable("keras_lgg")
@checks.described_by(projection.relative_projection)
class RelativeRepresentation(keras.layers.Layer):
    r"""Layer that describes each sample by its similarities to fixed anchors.

    With a similarity s, the anchors :math:`a_1, \dots, a_K` and an encoder f (the identity if there
    is none), the code of a sample x is

    .. math::

        r_x = \bigl( s(f(x), f(a_1)), \dots, s(f(x), f(a_K)) \bigr)

    The anchors come in one of three ways:

    * ``RelativeRepresentation(anchors)(z)``: their representations are given, and stay;
    * ``RelativeRepresentation(anchor_inputs, encoder=encoder)(x)``: inputs of the encoder are
      given, and it runs inside the layer, on the batch and on the anchors. This trains it end to
      end, with gradients through the batch only. `with_fixed_anchors` gives the model to deploy;
    * ``RelativeRepresentation()(z, anchors=a)``: with each call, as in a graph network, where
      the anchors are some of the nodes: ``(z, anchors=keras.ops.take(z, indices, axis=0))``.

    Sequences are pooled, or compared position by position. Masks are respected (Keras's own, or an
    encoder input ``"padding_mask"`` or ``"attention_mask"``); padding does not change a code.

    Args:
        anchors: Array ``(K, ...)`` of at least 2 anchors, in the order that both halves of a
            stitched model share; with an ``encoder``, its inputs instead: an array of numbers or
            (on TensorFlow) of strings, or a dict, tuple or list of such arrays.
        encoder: Model or layer from inputs ``(n, ...)`` to representations ``(n, ...)``.
        pool_positions: How positions ``(n, T, ..., c)`` become one vector per sample: ``None``
            (all, flattened, 0 where masked), ``"mean"``, ``"max"``, ``"first"`` or ``"last"``.
        anchor_mask: Boolean array ``(K, T)``, true where a position of an anchor counts, for
            anchors ``(K, T, ...)`` in one array.
        bin_size: Size of the steps that codes are rounded to; ``None`` for no rounding.
        quantization: ``"ste_round"`` (with the gradient passed on) or ``"smooth_steps"``, which is
            differentiable; see `keras_lgg.relative.quantize`. Needs a ``bin_size``.
        anchor_labels: Class of each anchor. Codes then hold the mean similarity to each class.
        indices: Which samples of the training set the anchors are, from `select_anchors`.
            `stitching_matrix` refuses models whose lists differ.
        refresh_every: With an ``encoder``: for how many steps of training the encoded anchors are
            kept. Outside training they are encoded at every call.
        anchor_training: ``"inherit"``: in training, the encoder sees the anchors in training
            mode, too, so its BatchNormalization moves twice per step; ``False``: at inference.
        **kwargs: ``name`` and the other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Representations ``(n, ...)``, or inputs of the encoder.
        anchors: Representations ``(K, ...)``, for a layer that holds none. They get no gradient.
        mask: Which positions of ``inputs`` count, ``(n, T)``; by default Keras's own.
        anchor_mask: Which positions of ``anchors`` count, ``(K, T)``; by default Keras's own.

    Returns:
        Codes ``(n, K)`` in the compute dtype of the layer, computed in float32 at least; with M
        similarities ``(n, M * K)`` for ``pool="concat"``, and ``(n, M, K)`` for ``"stack"``.

    Raises:
        ValueError: If an option is unknown; anchors are missing, fewer than 2, not finite, or do
            not fit representations or encoder; or samples are masked, and anchors have no mask.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> x = np.random.default_rng(0).random((100, 8), "float32")
        >>> layer = lgg.layers.RelativeRepresentation(x[:5], encoder=encoder)
        >>> model = keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(3, "softmax")])
        >>> layer(x[:5]).shape == (5, 5)
        True

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, https://arxiv.org/abs/2209.15430
    """

    def __init__(
        self,
        anchors: Samples | None = None,
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
        pool_positions: str | None = None,
        anchor_mask: ArrayLike | None = None,
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
            raise checks.invalid("encoder", "a model, which encodes anchors anew", "None")
        self.similarity, self.normalization, self.pool, self.p = similarity, normalization, pool, p
        self.bin_size, self.quantization = bin_size, quantization
        self.refresh_every, self.anchor_training = refresh_every, anchor_training
        self.anchor_labels = _integers("anchor_labels", anchor_labels)
        self.indices = _integers("indices", indices)
        self.encoder = encoder
        checks.check_choice("pool_positions", pool_positions, POOLS)
        self.pool_positions = pool_positions
        self.anchor_inputs: Any = None  # variables in their structure, in a layer with an encoder
        self.anchor_mask: Any = None  # likewise, where it was given
        self._lack_mask = False  # whether anchors have positions without a mask
        self._kept: dict[str, Any] = {}
        if anchor_mask is not None and anchors is None:
            raise checks.invalid("anchors", "the anchors that `anchor_mask` is of", "None")
        if encoder is not None:
            self._add_encoder(anchors, anchor_mask)
        elif anchors is not None:
            self._add_anchors(anchors, anchor_mask)

    def _add_encoder(self, inputs, mask):
        """The inputs that are anchors and, unless they are always encoded, what they became."""
        if not isinstance(self.encoder, keras.layers.Layer):
            raise checks.invalid("encoder", "a Keras model or layer", type(self.encoder).__name__)
        if inputs is None:
            raise checks.invalid("anchors", "the inputs of the encoder that are anchors", "None")
        if self.anchor_training is False and not self._mode(training=False):
            expected = "an encoder whose call() takes `training`, for anchor_training=False"
            raise checks.invalid("encoder", expected, type(self.encoder).__name__)
        leaves = keras.tree.flatten(inputs)
        is_loading = any(isinstance(x, keras.KerasTensor) for x in leaves)
        arrays = inputs if is_loading else structures.host_inputs("anchors", inputs)
        count = structures.sample_count("anchors", arrays)
        self._check_counts(count)
        kept, self._anchor_dtypes = stored.prepared(arrays, self._float_dtype)
        self.anchor_inputs = self._add_inputs("anchor_inputs", kept, self._anchor_dtypes)
        if mask is not None:
            mask = positions.checked_mask(mask, arrays)
            self.anchor_mask = self._add_inputs("anchor_mask", mask, "bool")
        if not is_loading:
            keras.tree.map_structure(self._check_finite, arrays)
            structures.check_vocabulary("anchors", self.encoder, arrays)
        width = self._encoded_width(arrays)
        if self.refresh_every > 1:
            if width is None:
                expected = "representations of a known width, to be kept; pool_positions gives it"
                raise checks.invalid("encoder", expected, "texts of any length")
            self._add_kept(count, width)
            self._age = self._add_state("age", (), "int32")
            self._age.assign(self.refresh_every)

    def _add_inputs(self, name, arrays, dtypes):
        """Weights in the structure of the arrays, with their values if they have any."""
        weights = []
        flat = keras.tree.flatten(arrays)
        for i, (x, dtype) in enumerate(zip(flat, keras.tree.flatten(dtypes), strict=True)):
            dtype = "uint8" if dtype == stored.TEXT else dtype
            own_name = name if len(flat) == 1 else f"{name}_{i}"
            weights.append(self._add_state(own_name, x.shape, dtype))
            if not isinstance(x, keras.KerasTensor):
                weights[-1].assign(x)
        return keras.tree.pack_sequence_as(arrays, weights)

    def _encoded_width(self, arrays):
        """The width of the representations, by a call of the encoder, which builds it."""
        if stored.TEXT in keras.tree.flatten(self._anchor_dtypes):  # a vocabulary may come later
            inputs = stored.symbols(self.anchor_inputs, self._anchor_dtypes)
        else:
            inputs, _ = self._inputs_to_encode(2)
        try:
            encoded = self.encoder(inputs)
        except Exception as error:
            expected = f"inputs that the encoder '{self.encoder.name}' takes"
            shapes = {name: x.shape for name, x in structures.leaves_of("anchors", arrays).items()}
            received = f"shapes {shapes}. It raised: {error}"
            raise checks.invalid("anchors", expected, received) from error
        structures.check_is_one(encoded)
        return positions.vector_width(encoded.shape, self.pool_positions)

    def _inputs_to_encode(self, count=None):
        """The first anchors as the encoder takes them, and NaN if none were loaded."""
        inputs, missing = stored.read(self.anchor_inputs, self._anchor_dtypes)
        inputs = structures.rows_of(inputs, slice(count))
        if self.anchor_mask is not None:
            inputs = positions.with_mask(inputs, self.anchor_mask.value[:count])
        return inputs, missing

    def _add_anchors(self, anchors, mask):
        is_loading = isinstance(anchors, keras.KerasTensor)
        if not is_loading:
            anchors = host_array("anchors", anchors, "numbers of shape (K, ...), one anchor a row")
            self._check_finite(anchors)
        if mask is not None:
            mask = positions.checked_mask(mask, anchors)
        self._lack_mask = len(anchors.shape) > 2 and mask is None
        self._check_counts(anchors.shape[0])
        self._add_kept(anchors.shape[0], positions.vector_width(anchors.shape, self.pool_positions))
        if not is_loading:
            anchors = anchors.astype(self._float_dtype)
            self._assign(self._kept, self._with_statistics(anchors, mask))

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
        # A layer made from its config, with no weights loaded, must not return plausible codes.
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

    def call(
        self,
        inputs: Samples,
        anchors: Tensor | None = None,
        mask: Tensor | None = None,
        anchor_mask: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        self._check_one_source(anchors, anchor_mask)
        if self.encoder is not None:
            inputs = positions.masked(inputs, mask)
            x = self.encoder(inputs, **self._mode(training))
            mask = positions.mask_from(self.encoder, inputs, x)
            state = self._encoded_in_step(training)
        else:
            x, mask = inputs, mask_of(inputs) if mask is None else mask
            state = {name: variable.value for name, variable in self._kept.items()}
        if anchors is not None:
            self._check_counts(anchors.shape[0])
            anchor_mask = self._mask_of_anchors(anchors, anchor_mask)
            state = self._with_statistics(ops.stop_gradient(anchors), anchor_mask)
        positions.check_masks(x, mask, self._lack_mask)
        return ops.cast(self._codes(x, mask, state), self.compute_dtype)

    def compute_output_spec(
        self,
        inputs: Samples,
        anchors: Tensor | None = None,
        mask: Tensor | None = None,
        anchor_mask: Tensor | None = None,
        training: bool = False,
    ) -> keras.KerasTensor:
        self._check_one_source(anchors, anchor_mask)
        if self.encoder is not None:
            count = keras.tree.flatten(self.anchor_inputs)[0].shape[0]
        else:
            mask = mask_of(inputs) if mask is None else mask
            count = self._checked_spec(inputs, anchors, mask, anchor_mask)
        if self.anchor_labels is not None:
            count = projection.class_averages(self.anchor_labels, count).shape[1]
        shape = (keras.tree.flatten(inputs)[0].shape[0], count)
        if not isinstance(self.similarity, str):
            shape = projection.pooled_shape(*shape, len(self._names), self.pool)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def _mask_of_anchors(self, anchors, mask):
        """The mask of a call's anchors; the layer remembers if they lack one."""
        mask = mask_of(anchors) if mask is None else mask
        self._lack_mask = len(anchors.shape) > 2 and mask is None
        return mask

    def _checked_spec(self, inputs, anchors, mask, anchor_mask):
        """The number of anchors, after a check of their width."""
        held: Tensor = self._kept.get("anchors", anchors)
        self._check_counts(held.shape[0])
        if anchors is not None:
            self._mask_of_anchors(anchors, anchor_mask)
        positions.check_masks(inputs, mask, self._lack_mask)
        widths = [positions.vector_width(x.shape, self.pool_positions) for x in (inputs, held)]
        may_vary = positions.may_vary(inputs, mask, self.pool_positions)
        if None not in widths and not may_vary:
            projection.check_anchors(keras.KerasTensor((held.shape[0], widths[1])), widths[0])
        return held.shape[0]

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """None: a code has no positions."""

    def _check_one_source(self, anchors, anchor_mask):
        if anchors is None and anchor_mask is not None:
            raise checks.invalid("anchor_mask", "None in a call without anchors", "a mask")
        held = self.encoder is not None or bool(self._kept)
        if (anchors is not None) == held:
            raise ValueError(
                f"The layer '{self.name}' needs its anchors from one place. Expected them in the "
                f"constructor or in each call. Received: {'both' if held else 'neither'}. Write "
                "RelativeRepresentation(anchors)(x), or RelativeRepresentation()(x, anchors=a)."
            )

    def _codes(self, x, mask, state):
        may_vary = positions.may_vary(x, mask, self.pool_positions)
        x = positions.vectors(x, mask, self.pool_positions)
        # Anchors that were never loaded are NaN; a normalisation would treat them as zero rows.
        x = x + ops.cast(0 * state["anchors"][0, 0], x.dtype)
        if may_vary:
            fitted = [
                (*positions.of_one_length(x, state, name, self.normalization), name)
                for name in self._names
            ]
            codes = [self._projected(*each) for each in fitted]
            codes = codes[0] if isinstance(self.similarity, str) else ops.stack(codes, axis=1)
        else:
            codes = self._projected(x, state, self.similarity)
        if self.bin_size is not None:
            codes = projection.quantize(codes, bin_size=self.bin_size, method=self.quantization)
        if self.anchor_labels is not None:
            codes = projection.class_codes(codes, self.anchor_labels)
        if isinstance(self.similarity, str) or self.pool == "stack":
            return codes
        return projection.pooled(ops.unstack(codes, axis=1), self.pool)

    def _projected(self, x, state, similarity):
        names = projection.similarity_names(similarity)
        needed = projection.needed_statistics(names, self.normalization)
        return projection.relative_projection(
            x,
            state["anchors"],
            similarity=similarity,
            normalization=self.normalization,
            pool="stack",
            p=self.p,
            stats={name: state[name] for name in needed},
        )

    def _with_statistics(self, anchors, mask, missing=0.0):
        anchors = positions.vectors(anchors, mask, self.pool_positions, "anchors")
        anchors = anchors + ops.cast(missing, anchors.dtype)
        return {
            "anchors": anchors,
            **projection.anchor_statistics(
                anchors, similarity=self._names, normalization=self.normalization
            ),
        }

    def _encoded_in_step(self, training):
        """The encoded anchors, with the updates of the encoder's state in training."""
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
        """The anchors with statistics, and the encoder's state after the call; no gradients."""
        # Stateless, to run inside a conditional, and not to add the losses of its layers.
        trainable, other = (
            [ops.stop_gradient(variable.value) for variable in variables]
            for variables in (
                self.encoder.trainable_variables,
                self.encoder.non_trainable_variables,
            )
        )
        training = training and self.anchor_training == "inherit"
        inputs, missing = self._inputs_to_encode()
        encoded, updated = self.encoder.stateless_call(
            trainable, other, inputs, **self._mode(training)
        )
        mask = positions.mask_from(self.encoder, inputs, encoded)
        self._lack_mask = len(encoded.shape) > 2 and mask is None
        return self._with_statistics(ops.stop_gradient(encoded), mask, missing), updated

    def _mode(self, training):
        """The `training` argument of the encoder's call, if it takes one."""
        takes = "training" in inspect.signature(self.encoder.call).parameters
        return {"training": training} if takes else {}

    def _encoded_to_keep(self, training):
        state, updated = self._encoded(training)
        return {name: ops.cast(x, self._kept[name].dtype) for name, x in state.items()}, updated

    def _assign(self, variables, values):
        for name, variable in variables.items():
            variable.assign(values[name])

    def _check_finite(self, anchors):
        if anchors.dtype.kind == "f" and not np.isfinite(anchors).all():
            raise checks.invalid("anchors", "finite numbers", "a NaN or an infinity among them")

    def _check_counts(self, count):
        if count is None:  # known only at run time
            return
        if count < 2:
            raise checks.invalid("anchors", "at least 2 anchors, one per row", f"{count} of them")
        if self.anchor_labels is not None:
            projection.class_averages(self.anchor_labels, count)
        if self.indices is not None and len(self.indices) != count:
            raise checks.invalid("indices", f"one for each of the {count} anchors", self.indices)

    def _options(self):
        """What an instance is made of, apart from its encoder and its anchors."""
        return {
            **super().get_config(),
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
            "pool_positions": self.pool_positions,
        }

    def get_config(self) -> dict[str, Any]:
        config = {**self._options(), "encoder": keras.saving.serialize_keras_object(self.encoder)}
        # The numbers themselves are weights.
        if self.encoder is not None:
            config["anchors"] = stored.spec_of(self.anchor_inputs, self._anchor_dtypes)
        elif self._kept:
            config["anchors"] = stored.spec_of(self._kept["anchors"], self._float_dtype)
        if self.anchor_mask is not None:
            config["anchor_mask"] = stored.spec_of(self.anchor_mask, "bool")
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = {**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])}
        for name in {"anchors", "anchor_mask"} & config.keys():
            config[name] = stored.from_spec(config[name])
        return cls(**config)

    def fixed(self) -> Self:
        """A layer with the same codes that holds the anchors as the encoder sees them now."""
        if self.encoder is None:
            return self
        config = {**self._options(), "refresh_every": 1, "anchor_training": "inherit"}
        return type(self)(ops.convert_to_numpy(self.anchors), **config)


def _integers(argument, values):
    """A list of integers that can be saved."""
    if values is None:
        return None
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise checks.invalid(argument, "a list of integers", f"{values.dtype} {values.shape}")
    return values.tolist()
