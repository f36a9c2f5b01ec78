"""The table of a classifier's accuracy under perturbations."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import numpy as np

from keras_lgg import checks
from keras_lgg.relative.structures import check_vocabulary
from keras_lgg.robustness.classifiers import Network, unchanged
from keras_lgg.robustness.inputs import KINDS, checked_data, kind_of, tokenized
from keras_lgg.robustness.perturbations import DataPerturbation, ModelPerturbation
from keras_lgg.types import ArrayLike, DataFrame, Samples, Series

_MODEL, _BASELINE = "model", "baseline"


def evaluate(
    model: keras.Model | Mapping[str, keras.Model],
    data: tuple[ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike], ArrayLike],
    perturbations: Iterable[DataPerturbation | ModelPerturbation],
    *,
    baseline: keras.Model | str | None = None,
    tokenizer: Callable[[np.ndarray], Samples] | None = None,
    from_logits: bool = True,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> DataFrame:
    r"""Accuracy of a classifier, or of several, under each perturbation at each severity.

    The models run with ``training=False`` and come out bit for bit as they went in, even if
    interrupted. The randomness of a sample depends only on the seed, the perturbation, the severity
    and the index of the sample: not on the order of the perturbations, nor on the batches. (An
    `ArtAttack` draws for all samples together.)

    With a baseline, a perturbation c has a corruption error. With :math:`E_{s,c}` the error rate, 1
    minus the accuracy, at severity s, it is

    .. math::

        \text{CE}_c = \frac{\sum_s E_{s,c}}{\sum_s E^\text{baseline}_{s,c}}

    Args:
        model: Keras model from its inputs, such as float32 pixels in [0, 1], to ``(n, classes)``,
            or a dict of such models by name; perturbed data are then made once for all of them. If
            a network wants normalised input, put the normalisation in front:
            ``keras.Sequential([keras.Input(shape), normalization, network])``. Layers inside are
            then named by path (``"network/block1"``).
        data: Pair of inputs and integer labels, the latter of shape ``(n,)`` or ``(n, 1)``. The
            inputs are

            * images, of shape ``(n, ...)``, uint8 in [0, 255] or floats in [0, 1]; or
            * token ids, of shape ``(n, T)``, of an integer dtype other than uint8; or
            * texts, ``n`` of them, as strings; or
            * a dict or list of arrays of shape ``(n, ...)``, which the model gets as they are, for
              perturbations that need no pixels.
        perturbations: Perturbations of `keras_lgg.robustness`, with different names.
        baseline: A further model to compare with or, with a dict, the name of one in it.
        tokenizer: Function from a NumPy array of texts to what the models take, an array or a dict
            or list of arrays, such as a `keras.layers.TextVectorization`; needed for texts.
        from_logits: Whether the models return logits, rather than probabilities.
        seed: Integer of at least 0.
        batch_size: Number of samples at a time.
        progress: Whether to show a progress bar.

    Returns:
        A pandas DataFrame with a row for the clean data (perturbation "clean"), then one row for
        each perturbation and severity, and the columns

        * ``model`` (only with a dict), ``perturbation``: names;
        * ``severity``: float, NaN if there is none;
        * ``accuracy``: float in [0, 1];
        * ``baseline`` (only with one): accuracy of the baseline;
        * ``corruption_error`` (likewise): the corruption error as above, the same on each row of a
          perturbation, NaN on the clean one. It is infinite if only the baseline makes no error,
          and NaN if neither makes one.

    Raises:
        ValueError: If an argument is not as above, two perturbations share a name, a perturbation
            does not take the inputs, or ``from_logits`` contradicts the outputs.
        ImportError: If a package is missing; the message names the extra that brings it.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lgg import robustness
        >>> images = np.random.default_rng(0).random((50, 8, 8, 1))
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
        ... )
        >>> labels = model.predict(images, verbose=0).argmax(axis=-1)
        >>> table = robustness.evaluate(
        ...     model, (images, labels), [robustness.GaussianNoise(snr=(300,))], progress=False
        ... )
        >>> table["accuracy"].tolist()
        [1.0, 1.0]

    Reference: the corruption error: Hendrycks and Dietterich, "Benchmarking neural network
    robustness to common corruptions and perturbations", ICLR 2019, eq. 1,
    https://arxiv.org/abs/1903.12261
    """
    pandas = checks.require("pandas", "robustness")
    models, baseline_name = _named_models(model, baseline)
    checked = _checked_perturbations(perturbations)
    inputs, labels = checked_data(data)
    _check_kinds(checked, inputs, tokenizer, models)
    taken = _taken(inputs, tokenizer)
    checks.check_positive_integer("batch_size", batch_size)
    checks.check_seed(seed)
    networks = {
        name: Network(each, from_logits=from_logits, batch_size=batch_size)
        for name, each in models.items()
    }
    for each in models.values():
        check_vocabulary("data" if tokenizer is None else "tokenizer(texts)", each, taken)
    accuracies: dict[str, list[float]] = {name: [] for name in networks}
    bar = _progress_bar(len(networks) * (1 + sum(len(p.severities) for p in checked)))

    def record(name, outputs, labels):
        _check_labels(labels, outputs.shape[-1])
        is_finite = np.isfinite(outputs).all(axis=-1)
        accuracies[name].append(np.mean(is_finite & (outputs.argmax(axis=-1) == labels)))
        if progress:
            bar.add(1)

    with contextlib.ExitStack() as stack:
        for each in models.values():
            stack.enter_context(unchanged(each))
        for name, network in networks.items():
            outputs = network.outputs(taken)
            _check_outputs(name, outputs, from_logits)
            record(name, outputs, labels)
        for perturbation in checked:
            if isinstance(perturbation, ModelPerturbation):
                for name, network in networks.items():
                    for outputs in perturbation.outputs(network, taken, labels, seed=seed):
                        record(name, outputs, labels)
                continue
            for changed, its_labels in perturbation.data(inputs, labels, seed=seed):
                taken_then = _taken(changed, tokenizer)
                for name, network in networks.items():
                    record(name, network.outputs(taken_then), its_labels)

    rows = [("clean", math.nan), *((p.name, s) for p in checked for s in p.severities)]
    tables = {
        name: _table(pandas, rows, accuracies[name], accuracies.get(baseline_name))
        for name in networks
    }
    if not isinstance(model, dict):
        return tables[_MODEL]
    for name, table in tables.items():
        table.insert(0, "model", name)
    return pandas.concat(tables.values(), ignore_index=True)


def mean_corruption_error(table: DataFrame) -> float | Series:
    r"""Mean of the corruption errors of the perturbations of a table, in percent.

    With the corruption error :math:`\text{CE}_c` of each of the perturbations c in a set C, as
    `evaluate` computes it with a baseline,

    .. math::

        \text{mCE} = \frac{100}{|C|} \sum_{c \in C} \text{CE}_c

    It takes every perturbation of the table but "clean". For the published mean corruption error
    (mCE), which is over the 15 common corruptions, filter the table first.

    Args:
        table: What `evaluate` returned with a baseline.

    Returns:
        A float; for several models, a pandas Series with one value per model. The baseline's is
        100.

    Raises:
        ValueError: If the table has no corruption errors.

    Example:
        >>> import pandas
        >>> from keras_lgg import robustness
        >>> table = pandas.DataFrame(
        ...     {
        ...         "perturbation": ["clean", "fog", "fog", "snow"],
        ...         "corruption_error": [float("nan"), 0.5, 0.5, 1.0],
        ...     }
        ... )
        >>> robustness.mean_corruption_error(table)
        75.0

    Reference: Hendrycks and Dietterich, "Benchmarking neural network robustness to common
    corruptions and perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261
    """
    if "corruption_error" not in table.columns:
        raise checks.invalid(
            "table", "a table of evaluate(..., baseline=...)", f"the columns {list(table.columns)}"
        )
    perturbed = table[table["perturbation"] != "clean"]
    if len(perturbed) == 0:
        raise checks.invalid("table", "at least one perturbation", "clean rows only")
    by_model = ["model"] if "model" in table.columns else []
    errors = perturbed.groupby([*by_model, "perturbation"], sort=False)["corruption_error"].first()
    if by_model:
        return 100 * errors.groupby(level="model", sort=False).mean().rename(
            "mean_corruption_error"
        )
    return float(100 * errors.mean())


def _named_models(model, baseline):
    """All models to run, by name, and the name of the baseline."""
    if not isinstance(model, dict):
        if isinstance(baseline, str):
            raise checks.invalid("baseline", "a model; a name needs a dict of models", baseline)
        named = {_MODEL: model}
        return (named, None) if baseline is None else ({**named, _BASELINE: baseline}, _BASELINE)
    if not model or not all(isinstance(name, str) for name in model):
        raise checks.invalid("model", "at least one model, by a name", model)
    if baseline is not None and (not isinstance(baseline, str) or baseline not in model):
        raise checks.invalid("baseline", f"one of the names {list(model)}", repr(baseline))
    return model, baseline


def _checked_perturbations(perturbations):
    if isinstance(perturbations, DataPerturbation | ModelPerturbation):
        perturbations = [perturbations]
    perturbations = list(perturbations)
    for each in perturbations:
        if not isinstance(each, DataPerturbation | ModelPerturbation):
            raise checks.invalid(
                "perturbations", "perturbations, such as robustness.GaussianNoise()", repr(each)
            )
    if not perturbations:
        raise checks.invalid("perturbations", "at least one perturbation", perturbations)
    names = [each.name for each in perturbations]
    if len({"clean", *names}) <= len(names):
        raise checks.invalid("perturbations", 'different names, none of them "clean"', names)
    return perturbations


def _check_outputs(name, outputs, from_logits):
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise checks.invalid(
            "model", "outputs of shape (n, classes), two classes or more", outputs.shape
        )
    if not np.isfinite(outputs).all():
        raise checks.invalid("model", "finite outputs", f"NaN or infinite outputs of '{name}'")
    sums_to_one = are_distributions(outputs)
    if from_logits and sums_to_one.all():
        raise checks.invalid(
            "from_logits",
            f"from_logits=False, as each output of '{name}' is a distribution over the classes",
            from_logits,
        )
    if not from_logits and not sums_to_one.all():
        raise checks.invalid(
            "from_logits",
            f"from_logits=True, as outputs of '{name}' are negative or do not sum to 1",
            from_logits,
        )


def are_distributions(outputs: np.ndarray) -> np.ndarray:
    """Whether each of some outputs ``(n, classes)`` is a distribution over the classes."""
    return (outputs >= 0).all(axis=1) & (np.abs(outputs.sum(axis=1) - 1) < 1e-3)


def _check_labels(labels, classes):
    if labels.min() < 0 or labels.max() >= classes:
        raise checks.invalid(
            "data",
            f"labels from 0 to {classes - 1}, as the model has {classes} outputs",
            f"labels from {labels.min()} to {labels.max()}",
        )


def _progress_bar(steps):
    return keras.utils.Progbar(steps, unit_name="severity")


def _check_kinds(perturbations, inputs, tokenizer, models):
    """Raise if the inputs do not suit a perturbation, the tokenizer or a model."""
    kind = kind_of(inputs)
    for each in perturbations:
        if kind not in each.takes:
            taken = " or ".join(KINDS[k] for k in each.takes)
            raise checks.invalid(
                "perturbations", f"those that take {KINDS[kind]}", f"'{each.name}', of {taken}"
            )
    if (tokenizer is None) == (kind == "texts"):
        expected = "a function from texts to what the model takes, with texts as data"
        raise checks.invalid("tokenizer", expected, f"{tokenizer!r}, and {KINDS[kind]} as data")
    for name, model in models.items():
        for given in getattr(model, "inputs", None) or []:
            if kind == "pixels" and not keras.backend.is_float_dtype(given.dtype):
                expected = f"token ids of int32, as the model '{name}' takes {given.dtype}"
                raise checks.invalid("data", expected, "uint8 or floats, which are read as pixels")


def _taken(inputs, tokenizer):
    """What the models take."""
    return tokenized(inputs, tokenizer) if kind_of(inputs) == "texts" else inputs


def _table(pandas, rows, accuracies, baseline):
    table = pandas.DataFrame(rows, columns=["perturbation", "severity"])
    table["severity"] = table["severity"].astype("float64")
    table["accuracy"] = np.array(accuracies, "float64")
    if baseline is not None:
        table["baseline"] = np.array(baseline, "float64")
        errors = (1 - table[["accuracy", "baseline"]]).groupby(table["perturbation"])
        sums = errors.transform("sum")
        ratios = sums["accuracy"] / sums["baseline"]
        table["corruption_error"] = ratios.where(table["perturbation"] != "clean")
    return table
