"""Zero-shot stitching: the encoder of one network with the decoder of another."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import overload

import keras
import numpy as np

from keras_lgg.checks import check_positive_integer, check_same_length, invalid
from keras_lgg.relative.deployment import with_fixed_anchors
from keras_lgg.relative.layer import RelativeRepresentation
from keras_lgg.relative.metrics import Metric, scorers_of
from keras_lgg.relative.stored import plain
from keras_lgg.relative.structures import check_vocabulary, for_model, sample_count
from keras_lgg.relative.translation import Translator
from keras_lgg.training.rebuilding import graph_of, is_graph, layers_of
from keras_lgg.types import Samples


def stitch(
    encoder: keras.Model, decoder: keras.Model, *, translator: Translator | None = None
) -> keras.Model:
    r"""One network from an encoder and a decoder that were trained apart; nothing is trained.

    With the encoder :math:`e_i`, the decoder :math:`d_j` and a translator T (the identity if there
    is none), the model is

    .. math::

        x \mapsto d_j(T(e_i(x)))

    Args:
        encoder: Model from inputs to codes ``(n, K)``, such as one that ends in a
            `keras_lgg.layers.RelativeRepresentation`.
        decoder: Model from codes ``(n, K)`` to outputs: all that comes after the codes of another
            network, including a normalisation of the codes. Its codes must be relative to the same
            anchors, in the same order.
        translator: A fitted translator, such as `Procrustes`, from the space of the encoder to
            that of the decoder, if the codes are absolute.

    Returns:
        Functional `keras.Model` that shares the layers of both. If the encoder re-encodes its
        anchors, `keras_lgg.layers.with_fixed_anchors` turns it into the model to deploy.

    Raises:
        ValueError: If the decoder does not take codes of this width.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg import layers, relative
        >>> x = np.random.default_rng(0).random((9, 8), "float32")
        >>> def encoder(width):
        ...     network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(width)])
        ...     codes = layers.RelativeRepresentation(x[:5], encoder=network)
        ...     return keras.Sequential([keras.Input((8,)), codes])
        >>> decoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8)])
        >>> model = relative.stitch(encoder(16), decoder)
        >>> model.predict(x, verbose=0).shape
        (9, 8)

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, section 5, https://arxiv.org/abs/2209.15430
    """
    _check_halves(encoder, decoder)
    graph = graph_of(encoder, "The inputs")
    inputs = keras.tree.map_structure(
        lambda x: keras.Input(x.shape[1:], dtype=x.dtype, name=x.name), graph.input
    )
    if encoder.name == decoder.name:  # as can happen if two programs trained them
        encoder = keras.Model(graph.input, graph.outputs[0], name=f"{encoder.name}_encoder")
    codes = encoder(inputs)
    if translator is not None:
        codes = translator.layer()(codes)
    _check_widths(codes.shape, decoder, "stitched")
    model = keras.Model(inputs, decoder(codes))
    model(inputs)  # Keras exports to ONNX only what has been called
    return model


@dataclasses.dataclass(frozen=True)
class StitchingReport:
    r"""What every decoder makes of the codes of every encoder; `stitching_matrix` returns it.

    Each matrix M has a row for each of the m encoders and a column for each of the m decoders. The
    summary compares the diagonal with the rest:

    .. math::

        \text{self} = \frac{1}{m} \sum_i M_{ii}, \qquad
        \text{stitched} = \frac{1}{m (m - 1)} \sum_{i \ne j} M_{ij}, \qquad
        \text{ratio} = \frac{\text{stitched}}{\text{self}}

    Args:
        metric: Name of the metric.
        relative: Array ``(m, m)``: the models as they are.
        permuted: Array ``(m, m)``: the control, with the encoder's anchors in another order.
        absolute: Array of the absolute baseline, NaN between spaces of different widths, or
            ``None``.
        translated: Array of that baseline, with codes translated from each space into each other,
            or ``None``.

    Example:
        >>> import numpy as np
        >>> from keras_lgg import relative
        >>> accuracies = np.array([[0.9, 0.8], [0.7, 0.9]])
        >>> report = relative.StitchingReport("accuracy", accuracies, accuracies / 8, None)
        >>> print(report.to_markdown())
        | accuracy | self | stitched | stitched / self |
        | --- | --- | --- | --- |
        | relative | 0.9 | 0.750 ± 0.071 | 0.8333 |
        | permuted anchors | 0.1125 | 0.0938 ± 0.0088 | 0.8333 |

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, section 5, https://arxiv.org/abs/2209.15430
    """

    metric: str
    relative: np.ndarray
    permuted: np.ndarray
    absolute: np.ndarray | None
    translated: np.ndarray | None = None

    def summary(self) -> dict[str, dict[str, float]]:
        """Dict from the name of each matrix to its numbers.

        ``"self"`` is the mean over the diagonal; ``"stitched"`` and ``"spread"`` are the mean and
        the standard deviation (of a sample) over the ordered pairs of two models; ``"ratio"`` is
        stitched over self.
        """
        return {name: _summary(matrix) for name, matrix in self._matrices().items()}

    def to_markdown(self) -> str:
        """A table of the summary."""
        lines = [f"| {self.metric} | self | stitched | stitched / self |", "| --- " * 4 + "|"]
        for name, row in self.summary().items():
            stitched = _with_spread(row["stitched"], row["spread"])
            lines.append(f"| {name} | {row['self']:.4g} | {stitched} | {row['ratio']:.4g} |")
        return "\n".join(lines)

    def _matrices(self):
        matrices = {
            "relative": self.relative,
            "permuted anchors": self.permuted,
            "absolute": self.absolute,
            "translated": self.translated,
        }
        return {name: matrix for name, matrix in matrices.items() if matrix is not None}


def _with_spread(mean, spread):
    """``mean ± spread``, with two digits of the spread that are not zeros before it."""
    if not spread > 0:
        return f"{mean:.4g} ± {spread:.2g}"
    digits = max(0, 1 - math.floor(math.log10(spread)))
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


@overload
def stitching_matrix(
    models: Iterable[tuple[keras.Model, keras.Model]],
    data: tuple[Samples | None, Samples],
    metric: Metric,
    *,
    inputs: Sequence[Samples] | None = None,
    absolute: Iterable[tuple[keras.Model, keras.Model]] | None = None,
    translator: Callable[[], Translator] | None = None,
    anchors: Samples | Sequence[Samples] | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> StitchingReport: ...


@overload
def stitching_matrix(
    models: Iterable[tuple[keras.Model, keras.Model]],
    data: tuple[Samples | None, Samples],
    metric: list[Metric],
    *,
    inputs: Sequence[Samples] | None = None,
    absolute: Iterable[tuple[keras.Model, keras.Model]] | None = None,
    translator: Callable[[], Translator] | None = None,
    anchors: Samples | Sequence[Samples] | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> dict[str, StitchingReport]: ...


def stitching_matrix(
    models: Iterable[tuple[keras.Model, keras.Model]],
    data: tuple[Samples | None, Samples],
    metric: Metric | list[Metric],
    *,
    inputs: Sequence[Samples] | None = None,
    absolute: Iterable[tuple[keras.Model, keras.Model]] | None = None,
    translator: Callable[[], Translator] | None = None,
    anchors: Samples | Sequence[Samples] | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> StitchingReport | dict[str, StitchingReport]:
    r"""How well decoders read the codes of encoders that they were not trained with.

    Every decoder runs on the codes of every encoder, with nothing trained in between. With the
    encoder :math:`e_i` and the decoder :math:`d_j` of the i-th and the j-th model,

    .. math::

        M_{ij} = \text{metric}\bigl( y, d_j(e_i(x)) \bigr)

    As a control, this is repeated with each encoder's anchors in another order, which shows what
    remains if codes do not match. All networks run in inference mode.

    Args:
        models: List of at least 2 pairs ``(encoder, decoder)`` of Keras models, as in `stitch`;
            they may differ in seed and architecture, but must have the same anchors.
        data: Pair of arrays ``(x, y)``, such as the test split; for an autoencoder, y is x. If an
            encoder takes several inputs, or strings, so does x: a dict, tuple or list of arrays.
        metric: ``"mse"``, ``"psnr"`` (in dB) or ``"ssim"``, the last two for images in [0, 1] and
            averaged over the samples; ``"accuracy"`` or ``"f1"`` (weighted by class), of class
            scores against integers; or a function ``metric(y, outputs)`` of NumPy arrays. Or a list
            of several, for which everything runs only once.
        inputs: If the encoders take different inputs, such as sentences in two languages: a list
            with one x per encoder, in which row i is the same sample, such as a translation;
            ``data`` is then ``(None, y)``. The anchors must be such pairs, too: all layers have the
            same ``indices``, from one call of `select_anchors`.
        absolute: Pairs of models as above, with absolute codes, as a baseline.
        translator: Class of a translator, such as `Procrustes`, or a function that makes one, as a
            further baseline: fitted on the anchors, it translates the codes of each absolute
            encoder into the space of each other one.
        anchors: Inputs of the anchors, for the translator: like x in ``data`` or, with ``inputs``,
            a list with one for each encoder.
        batch_size: Number of samples at a time.
        seed: Seed of the other order of the anchors, in which none keeps its place.

    Returns:
        `StitchingReport`; for a list of metrics, a dict from the name of each to its report.

    Raises:
        ValueError: If the models are not as above, their anchors differ in number, kind or order,
            inputs differ in their number of samples or are outside an encoder's vocabulary, or
            the metric does not fit the data.
        ImportError: For ``"ssim"`` or ``"f1"`` without the extra ``relative``.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg import layers, relative
        >>> x = np.random.default_rng(0).random((40, 8), "float32")
        >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, use_bias=False)])
        >>> model = keras.Sequential([encoder, layers.RelativeRepresentation(encoder(x[:5]))])
        >>> larger = keras.models.clone_model(encoder)
        >>> larger.set_weights([3 * w for w in encoder.get_weights()])
        >>> other = keras.Sequential([larger, layers.RelativeRepresentation(larger(x[:5]))])
        >>> decoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8)])
        >>> report = relative.stitching_matrix([(model, decoder), (other, decoder)], (x, x), "mse")
        >>> round(report.summary()["relative"]["ratio"], 5)
        1.0

    Reference: Moschella et al., "Relative representations enable zero-shot latent space
    communication", ICLR 2023, section 5, https://arxiv.org/abs/2209.15430
    """
    check_positive_integer("batch_size", batch_size)
    if translator is not None and (absolute is None or anchors is None):
        expected = "with it `absolute`, models to translate between, and `anchors`, to fit it on"
        raise invalid("translator", expected, "it without these")
    x, y = data
    metrics = metric if isinstance(metric, list) else [metric]
    y = np.asarray(y) if any(isinstance(each, str) for each in metrics) else y
    scorers = scorers_of(metrics, y)
    relative = _check_models("models", models)
    each_x = _inputs_of_each(x, y, inputs, len(relative))
    _check_same_anchors([encoder for encoder, _ in relative], paired=inputs is not None)
    decoders = [decoder for _, decoder in relative]
    codes = _codes_of_each(relative, each_x, batch_size)
    for own in codes:
        for decoder in decoders:
            _check_widths(own.shape, decoder, "relative")
    other_order = _derangement(codes[0].shape[-1], seed)

    def matrices(codes_for_each, decoders):
        """One matrix per metric, from the codes of each encoder as each decoder is to read them."""
        scores = [
            [
                [score(_decoded(decoder, codes, batch_size)) for score in scorers.values()]
                for codes, decoder in zip(of_encoder, decoders, strict=True)
            ]
            for of_encoder in codes_for_each
        ]
        return np.moveaxis(np.array(scores), -1, 0)

    def for_all(codes):
        return [[own] * len(codes) for own in codes]

    found = [
        matrices(for_all(codes), decoders),
        matrices(for_all([own[..., other_order] for own in codes]), decoders),
    ]
    if absolute is not None:
        pairs = _check_models("absolute", absolute)
        each_x = _inputs_of_each(x, y, inputs, len(pairs))
        codes, decoders = _codes_of_each(pairs, each_x, batch_size), [d for _, d in pairs]
        found.append(matrices(for_all(codes), decoders))
    if translator is not None:
        each_x = _anchors_of_each(anchors, inputs is not None, len(pairs))
        spaces = _codes_of_each(pairs, each_x, batch_size)
        found.append(matrices(_in_each_space(translator, codes, spaces), decoders))
    found += [[None] * len(scorers)] * (4 - len(found))
    reports = {
        name: StitchingReport(name, *of_metric)
        for name, *of_metric in zip(scorers, *found, strict=True)
    }
    return reports if isinstance(metric, list) else next(iter(reports.values()))


def _summary(matrix):
    apart = matrix[~np.eye(len(matrix), dtype=bool)]
    own, stitched = np.mean(np.diag(matrix)), np.mean(apart)
    with np.errstate(invalid="ignore"):  # perfect images have an infinite PSNR
        spread = np.std(apart, ddof=1)
        ratio = stitched / own if own else np.nan
    return {
        "self": float(own),
        "stitched": float(stitched),
        "spread": float(spread),
        "ratio": float(ratio),
    }


def _inputs_of_each(x, y, inputs, count):
    """One x for each of ``count`` encoders, with as many samples as there are targets."""
    if inputs is None:
        check_same_length(x=np.empty(sample_count("x", x)), y=keras.tree.flatten(y)[0])
        return [x] * count
    if x is not None:
        raise invalid("data", "(None, y) where `inputs` has an x for each encoder", "an x, too")
    _check_one_each("inputs", inputs, count)
    named = {f"inputs[{i}]": each for i, each in enumerate(inputs)}
    counts = {name: sample_count(name, each) for name, each in named.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "The inputs do not pair. Expected as many samples for each encoder, row i of all being "
            f"the same one, such as a sentence and its translation. Received: {counts}. Leave out "
            "what has no counterpart."
        )
    check_same_length(inputs=np.empty(counts["inputs[0]"]), y=keras.tree.flatten(y)[0])
    return list(inputs)


def _check_one_each(argument, given, count):
    if not isinstance(given, list | tuple) or len(given) != count:
        received = f"{len(given)} of them" if isinstance(given, list | tuple) else type(given)
        raise invalid(argument, f"a list of one x for each of the {count} encoders", received)


def _anchors_of_each(anchors, is_list, count):
    """The anchors of each of ``count`` encoders."""
    if not is_list:
        return [anchors] * count
    _check_one_each("anchors", anchors, count)
    return list(anchors)


def _in_each_space(translator, codes, anchors):
    """For each encoder, its codes as they are in each space whose anchors are given."""
    for here, own in zip(anchors, codes, strict=True):
        yield [
            own if here is there else translator().fit(here, there)(own).astype(own.dtype)
            for there in anchors
        ]


def _codes_of_each(models, each_x, batch_size):
    return [_codes(encoder, x, batch_size) for (encoder, _), x in zip(models, each_x, strict=True)]


def _codes(encoder, x, batch_size):
    check_vocabulary("x", encoder, x)
    # So the anchors are encoded once, and not with each batch.
    if layers_of(encoder, RelativeRepresentation):
        encoder = with_fixed_anchors(encoder)
    codes = np.asarray(encoder.predict(for_model(x), batch_size=batch_size, verbose=0))
    if not np.isfinite(codes).all():
        raise ValueError(
            f"The codes of the encoder '{encoder.name}' are not finite. Expected numbers. "
            "Received: NaN or infinite values. Check that its inputs are what it was trained "
            "with, such as ids of its own tokenizer, and that its weights were loaded."
        )
    return codes


def _decoded(decoder, codes, batch_size):
    """The outputs of a decoder, or ``None`` if it takes codes of another width."""
    if not _fits(codes.shape, decoder):
        return None
    if len(codes) <= batch_size:  # saves the cost of a loop over batches, many times over
        return np.asarray(keras.ops.convert_to_numpy(decoder.predict_on_batch(codes)))
    return np.asarray(decoder.predict(codes, batch_size=batch_size, verbose=0))


def _derangement(count, seed):
    """An order of ``count`` things in which none keeps its place."""
    cycle = np.random.default_rng(seed).permutation(count)
    order = np.empty(count, int)
    order[cycle] = np.roll(cycle, 1)
    return order


def _check_halves(encoder, decoder):
    for argument, model in {"encoder": encoder, "decoder": decoder}.items():
        if not is_graph(model) or len(model.outputs) != 1:
            expected = "a Functional or Sequential model of one output that knows its input shape"
            received = f" of {len(model.outputs)} outputs" if is_graph(model) else ""
            raise invalid(argument, expected, f"a {type(model).__name__}{received}")


def _check_models(argument, models):
    models = list(models)
    if len(models) < 2 or not all(isinstance(m, list | tuple) and len(m) == 2 for m in models):
        raise invalid(argument, "at least 2 pairs (encoder, decoder)", repr(models))
    for encoder, decoder in models:
        _check_halves(encoder, decoder)
    return models


def _fits(shape, decoder):
    taken = decoder.input_shape
    return len(taken) == len(shape) and all(
        None in (a, b) or a == b for a, b in zip(taken[1:], shape[1:], strict=True)
    )


def _check_widths(shape, decoder, kind):
    if not _fits(shape, decoder):
        raise ValueError(
            f"The decoder '{decoder.name}' does not take these {kind} codes. Expected codes of "
            f"shape {decoder.input_shape}. Received: {(None, *shape[1:])}. Train both networks on "
            "the same anchors, in one order, or give a fitted `translator` to stitch()."
        )


def _check_same_anchors(encoders, *, paired):
    """Raise if the layers of two encoders show that their anchors differ.

    Paired anchors may differ as inputs, if their indices say that they are the same samples.
    """
    first, *others = [_anchor_lists(encoder) for encoder in encoders]
    for i, lists in enumerate(others, start=1):
        for mine, theirs in zip(first, lists, strict=False):
            kinds = mine.keys() & theirs.keys()
            same = [kind for kind in kinds if _are_same(mine[kind], theirs[kind])]
            if paired and "inputs" in kinds and not same and "indices" not in kinds:
                raise ValueError(
                    f"Nobody can tell whether the anchors of the models 0 and {i} pair. Expected "
                    "layers that know which samples theirs are, as the inputs differ. Received: "
                    "layers without indices. Give each RelativeRepresentation "
                    "indices=select_anchors(...), and take its anchors from there."
                )
            if paired and "indices" in kinds:
                kinds = {"indices"}
            for kind in sorted(kinds):
                if kind not in same:
                    raise ValueError(
                        f"The models 0 and {i} have different anchors. Expected the same samples "
                        f"in the same order, which are the axes of the codes. Received: {kind} "
                        f"that differ ({_difference(mine[kind], theirs[kind])}). Select them once, "
                        "and train all models with them."
                    )


def _anchor_lists(encoder):
    """What identifies the anchors of each relative layer of a model."""
    lists = []
    for layer in layers_of(encoder, RelativeRepresentation):
        known = {}
        if layer.indices is not None:
            known["indices"] = np.asarray(layer.indices)
        if layer.anchor_inputs is not None:
            known["inputs"] = keras.tree.map_structure(
                keras.ops.convert_to_numpy, plain(layer.anchor_inputs)
            )
        lists.append(known)
    return lists


def _are_same(a, b):
    a, b = keras.tree.flatten(a), keras.tree.flatten(b)
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def _difference(a, b):
    a, b = keras.tree.flatten(a), keras.tree.flatten(b)
    if len(a) != 1 or len(b) != 1:
        return "others"
    a, b = a[0], b[0]
    if len(a) != len(b):
        return f"{len(a)} and {len(b)} of them"
    mine, theirs = (sorted(map(bytes, np.ascontiguousarray(v))) for v in (a, b))
    return "in another order" if mine == theirs else "others"
