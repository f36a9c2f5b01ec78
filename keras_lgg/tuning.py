"""Search of the weights of penalties, and of their k, power, alpha and taps, with KerasTuner."""

import collections
import inspect
import itertools
import math
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_lgg.checks import check_choice, check_positive_integer, invalid, require
from keras_lgg.layers import GeometryPenalty
from keras_lgg.models import PenalizedModel
from keras_lgg.penalties import Penalty, check_penalties
from keras_lgg.penalty_space import penalty_spaces

# At the top, for the base class; the package imports this module only where it is asked for.
kt = require("keras_tuner", "tuner")

__all__ = ["PenaltyHyperModel", "PenaltySearch", "search_penalty_weights"]

TUNERS = {
    "random": "RandomSearch",
    "bayesian": "BayesianOptimization",
    "hyperband": "Hyperband",
    "grid": "GridSearch",
}


class PenaltyHyperModel(kt.HyperModel):
    """Models under penalties whose weights a tuner of KerasTuner searches.

    A weight is one of a list of values, evenly spaced on a log scale, the first of which is 0: so
    each tuner can try the model without the penalty, and no k, power, alpha or taps of a penalty
    that is off. In the tuner, the hyperparameters are called ``"<penalty>/weight"``,
    ``"<penalty>/k"`` and so on.

    Args:
        build: Function ``build(penalties)``, or ``build(penalties, hp)`` to tune more, such as a
            learning rate ``hp.Float(...)``, that returns a compiled model which holds all of the
            penalties, in the order of ``penalties``: in a `GeometryModel` or a `Distiller`, as
            layers ``GeometryPenalty(penalty.loss, float(penalty.weight))``, or as the loss of
            ``compile``, with ``loss_weights=float(penalty.weight)`` where its weight is searched.
        penalties: `Penalty`, or a list of them: the templates of what ``build`` is given.
        weights: ``(low, high)``, the least weight above 0 and the largest one, or ``(low, high,
            count)`` with how many there are; by default 4 a decade. ``None`` keeps the weight of
            the template. A dict from names of penalties gives each its own; others keep theirs.
        k: List of what to try as the ``k`` of the loss, such as ``[None, 5, 10]``; a dict from
            names of penalties gives each its own. ``None`` keeps that of the template.
        power: Likewise.
        alpha: Likewise.
        taps: Dict from a name of your own to taps, such as ``{"early": ["h1", "h2"], "late":
            ["h3", "h4"]}``; a dict of such dicts, by names of penalties, gives each its own.
        seed: Integer that starts the weights of a model and the order of its batches, through
            `keras.utils.set_random_seed`: the same for all trials, so that they differ in nothing
            else, and one more for each further execution of a trial, and where a tuner tries the
            same values again, as the Bayesian one may. ``None`` sets none.

    Raises:
        ValueError: If a range or a choice is not of these forms, names no penalty, or is not one
            that the loss has; in the search, if ``build`` returns no compiled model, or one in
            which a penalty does not act with its weight.

    Example:
        >>> import keras, keras_tuner as kt, keras_lgg as lgg
        >>> def build(penalties):
        ...     layers = [keras.layers.Dense(8, name=name) for name in ("h1", "h2")]
        ...     model = lgg.GeometryModel(keras.Sequential([keras.Input((4,)), *layers]), penalties)
        ...     model.compile("adam", "mse")
        ...     return model
        >>> penalty = lgg.Penalty(lgg.losses.GraphVariation(), taps=["h1", "h2"])
        >>> hyper = lgg.tuning.PenaltyHyperModel(build, penalty, weights=(0.1, 10, 3), k=[None, 5])
        >>> hp = kt.HyperParameters()
        >>> _ = hyper.build(hp)  # a tuner does this: kt.RandomSearch(hyper, ...)
        >>> [parameter.name for parameter in hp.space]
        ['graph_variation/weight', 'graph_variation/k']
        >>> hp.space[0].values
        [0.0, 0.1, 1.0, 10.0]
    """

    def __init__(
        self,
        build: Callable[..., keras.Model],
        penalties: Penalty | Sequence[Penalty],
        *,
        weights: Sequence[float] | Mapping[str, Sequence[float] | None] | None,
        k: Sequence | Mapping[str, Sequence] | None = None,
        power: Sequence | Mapping[str, Sequence] | None = None,
        alpha: Sequence | Mapping[str, Sequence] | None = None,
        taps: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(build):
            raise invalid("build", "a function build(penalties)", repr(build))
        if not penalties:
            raise invalid("penalties", "at least one lgg.Penalty", repr(penalties))
        self._build_model = build
        self._seed = seed
        self._times_trained = collections.Counter()
        self._spaces = penalty_spaces(
            check_penalties(penalties),
            {"weights": weights, "k": k, "power": power, "alpha": alpha, "taps": taps},
        )

    def build(self, hp: kt.HyperParameters) -> keras.Model:
        """A model as ``build`` makes it, with fresh penalties as `hp` chooses them."""
        self._set_seed(hp)
        penalties = self.penalties(hp)
        takes_hp = "hp" in inspect.signature(self._build_model).parameters
        model = self._build_model(penalties, **({"hp": hp} if takes_hp else {}))
        _check_model(model, penalties)
        if model.built and model.optimizer is not None and not model.optimizer.built:
            # KerasTuner loads checkpoints, whose optimizer has variables, before any training.
            model.optimizer.build(model.trainable_variables)
        return model

    def fit(self, hp: kt.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`, with the batches in the order that the seed gives."""
        self._set_seed(hp)
        self._times_trained[_key(hp)] += 1
        return super().fit(hp, model, *args, **kwargs)

    def penalties(self, hp: kt.HyperParameters) -> list[Penalty]:
        """Fresh copies of the penalties, as `hp` chooses them."""
        return [space.penalty(hp) for space in self._spaces]

    def weights(self, hp: kt.HyperParameters) -> dict[str, float]:
        """The weight of each penalty by its name, as `hp` chooses it; but for balanced ones."""
        chosen = {space.template.name: space.choose(hp)[0] for space in self._spaces}
        return {name: weight for name, weight in chosen.items() if weight != "balanced"}

    def others(self, hp: kt.HyperParameters) -> dict[str, Any]:
        """All that `hp` chooses but the weights, by hyperparameter; of taps, their name."""
        chosen = {}
        for space in self._spaces:
            for argument, label in space.choose(hp)[1].items():
                value = label if argument == "taps" else space.options[argument][label]
                chosen[f"{space.template.name}/{argument}"] = value
        ours = {name for space in self._spaces for name in space.names}
        return {**chosen, **{name: v for name, v in hp.values.items() if name not in ours}}

    def _set_seed(self, hp):
        # Counted, as KerasTuner does not say which of several executions of a trial it builds for.
        if self._seed is not None:
            keras.utils.set_random_seed(self._seed + self._times_trained[_key(hp)])


class PenaltySearch:
    """What a search found: its trials, the best weights, and the models with them.

    Args:
        tuner: Tuner of KerasTuner that has searched a `PenaltyHyperModel`.

    Attributes:
        tuner: The same.
        trials: List of dicts, in the order of the trials, of those that were completed:
            ``"trial"``, the name of the trial; ``"weights"``, a dict from each penalty to its
            weight; ``"hyperparameters"``, a dict of all else that was searched; ``"score"``, the
            value of the objective; ``"metrics"``, a dict of all metrics. Both are of the epoch
            with the best score, and means over the executions of the trial.
        best_weights: Dict from the name of each penalty to its weight in the best trial.

    Raises:
        ValueError: If the tuner searches anything else.
        RuntimeError: If no trial was completed.

    Example:
        >>> import keras, keras_tuner as kt, numpy as np, tempfile, keras_lgg as lgg
        >>> def build(penalties):
        ...     base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="h")])
        ...     model = lgg.GeometryModel(base, penalties)
        ...     model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        ...     return model
        >>> penalty = lgg.Penalty(lgg.losses.GraphSmoothness(), taps="h")
        >>> hyper = lgg.tuning.PenaltyHyperModel(build, penalty, weights=(0.1, 1, 2), seed=0)
        >>> x, y = np.eye(12, 4), np.arange(12) % 3
        >>> objective = kt.Objective("val_graph_smoothness", "min")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tuner = kt.GridSearch(hyper, objective, directory=folder)
        ...     tuner.search(x, y, validation_data=(x, y), verbose=0)
        ...     found = lgg.tuning.PenaltySearch(tuner)
        ...     model = found.get_best_models()[0]
        >>> [trial["weights"] for trial in found.trials]
        [{'graph_smoothness': 0.0}, {'graph_smoothness': 0.1}, {'graph_smoothness': 1.0}]
        >>> found.best_weights, float(model.penalties[0].weight)
        ({'graph_smoothness': 1.0}, 1.0)
    """

    def __init__(self, tuner: kt.Tuner) -> None:
        if not isinstance(tuner.hypermodel, PenaltyHyperModel):
            received = type(tuner.hypermodel).__name__
            raise invalid(
                "tuner", "a tuner that searches a PenaltyHyperModel", f"one of {received}"
            )
        self.tuner = tuner
        if not self._completed():
            messages = [t.message or t.status for t in tuner.oracle.trials.values()]
            raise RuntimeError(
                "The search has no result. Expected at least one trial that was completed. "
                f"Received: {len(messages)} others. {' '.join(messages[-1:])}".strip()
            )

    @property
    def trials(self) -> list[dict[str, Any]]:
        order = self.tuner.oracle.start_order
        completed = sorted(self._completed(), key=lambda trial: order.index(trial.trial_id))
        return [self._row(trial) for trial in completed]

    @property
    def best_weights(self) -> dict[str, float]:
        return self.tuner.hypermodel.weights(self._completed()[0].hyperparameters)

    def best_penalties(self) -> list[Penalty]:
        """Fresh penalties as in the best trial, to train with them anew."""
        return self.tuner.hypermodel.penalties(self._completed()[0].hyperparameters)

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """The trained models of the best trials, best first, as after their best epochs."""
        return self.tuner.get_best_models(min(num_models, len(self._completed())))

    def to_markdown(self) -> str:
        """A table of the trials, the best first."""
        rows = [self._row(trial) for trial in self._completed()]
        cells = [_cells(row) for row in rows]
        columns = list(dict.fromkeys(name for row in cells for name in row))
        table = [[*columns, self.tuner.oracle.objective.name]]
        for row, texts in zip(rows, cells, strict=True):
            table.append([*(texts.get(name, "") for name in columns), f"{row['score']:.4g}"])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        head, *body = (
            "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"
            for cells in table
        )
        rule = "| " + " | ".join("-" * max(3, width) for width in widths) + " |"
        return "\n".join([head, rule, *body])

    def __str__(self) -> str:
        return self.to_markdown()

    def _completed(self):
        """The trials with a score, best first."""
        trials = self.tuner.oracle.trials.values()
        count = sum(trial.status == "COMPLETED" for trial in trials)
        return self.tuner.oracle.get_best_trials(count) if count else []

    def _row(self, trial):
        hp, metrics = trial.hyperparameters, trial.metrics
        return {
            "trial": trial.trial_id,
            "weights": self.tuner.hypermodel.weights(hp),
            "hyperparameters": self.tuner.hypermodel.others(hp),
            "score": float(trial.score),
            "metrics": {name: float(metrics.get_last_value(name)) for name in metrics.metrics},
        }


def search_penalty_weights(
    build: Callable[..., keras.Model],
    penalties: Penalty | Sequence[Penalty],
    data: Any,
    *,
    validation_data: Any,
    weights: Sequence[float] | Mapping[str, Sequence[float] | None] | None,
    k: Sequence | Mapping[str, Sequence] | None = None,
    power: Sequence | Mapping[str, Sequence] | None = None,
    alpha: Sequence | Mapping[str, Sequence] | None = None,
    taps: Mapping[str, Any] | None = None,
    objective: str | kt.Objective | Sequence[kt.Objective] = "val_accuracy",
    trials: int | None = None,
    tuner: str | type[kt.Tuner] = "bayesian",
    executions_per_trial: int = 1,
    seed: int | None = None,
    directory: str | None = None,
    overwrite: bool = False,
    tuner_options: Mapping[str, Any] | None = None,
    **fit_options: Any,
) -> PenaltySearch:
    """Search the weights of penalties, and more of them on wish, on validation data.

    Trains a model for each trial. In the first one all penalties that are searched have the
    weight 0, so the model without them always competes. Never give the test split as
    ``validation_data``: the best of many trials is better there than it is.

    Args:
        build: See `PenaltyHyperModel`.
        penalties: See `PenaltyHyperModel`.
        data: ``(x, y)``, ``(x, y, sample_weight)``, or anything else that `keras.Model.fit` takes
            as ``x``, such as a dataset.
        validation_data: Of the same forms, as in `keras.Model.fit`.
        weights: See `PenaltyHyperModel`.
        k: See `PenaltyHyperModel`.
        power: See `PenaltyHyperModel`.
        alpha: See `PenaltyHyperModel`.
        taps: See `PenaltyHyperModel`.
        objective: What the best trial has the best of, over its epochs: the name of a metric that
            KerasTuner knows to be minimised or maximised, or a ``keras_tuner.Objective``, such as
            ``Objective("val_smoothness_variation", "min")``, or a list of them.
        trials: Number of trials; by default 10, in a grid all. Hyperband, whose number follows
            from ``epochs`` and its ``factor``, takes none.
        tuner: ``"bayesian"``, ``"random"``, ``"hyperband"``, ``"grid"``, or a class of tuners.
        executions_per_trial: Models trained for each trial, the mean of whose scores counts.
        seed: Of the tuner, and of the models as in `PenaltyHyperModel`. With one, the same call
            has the same trials.
        directory: Folder that keeps the trials and their models. A call with the same one goes on
            where the search in it ended. By default a temporary one, which is deleted with the
            result.
        overwrite: Whether a search in the directory is deleted first.
        tuner_options: Dict of further arguments of the tuner's class, such as ``{"factor": 2}``.
        **fit_options: Further arguments of `keras.Model.fit`, such as ``epochs``, ``batch_size``,
            ``callbacks`` (which are copied for each trial), ``verbose``.

    Returns:
        `PenaltySearch`.

    Raises:
        ValueError: If an argument is not of these forms, the objective is no metric of the
            models, or the directory holds a search of another space. See also
            `PenaltyHyperModel`.
        RuntimeError: If trials fail: all of them, or as many in a row as the tuner's
            ``max_consecutive_failed_trials``. Of fewer, a warning tells.
        ImportError: If the extra ``tuner`` is missing.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> def build(penalties):
        ...     layers = [keras.layers.Dense(8, "relu", name=name) for name in ("h1", "h2")]
        ...     head = keras.layers.Dense(3, "softmax")
        ...     base = keras.Sequential([keras.Input((4,)), *layers, head])
        ...     model = lgg.GeometryModel(base, penalties)
        ...     model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        ...     return model
        >>> penalty = lgg.Penalty(lgg.losses.SmoothnessVariation(), taps=["h1", "h2"])
        >>> x, y = np.random.default_rng(0).random((30, 4)), np.arange(30) % 3
        >>> found = lgg.tuning.search_penalty_weights(
        ...     build,
        ...     penalty,
        ...     (x[:20], y[:20]),
        ...     validation_data=(x[20:], y[20:]),
        ...     weights=(1e-4, 1),
        ...     trials=2,
        ...     tuner="random",
        ...     seed=0,
        ...     verbose=0,
        ... )
        >>> found.trials[0]["weights"], len(found.trials)
        ({'smoothness_variation': 0.0}, 2)
        >>> model = found.get_best_models()[0]
    """
    if validation_data is None:
        raise invalid("validation_data", "data that is not trained on, to choose by", "None")
    check_positive_integer("executions_per_trial", executions_per_trial)
    hypermodel = PenaltyHyperModel(
        build, penalties, weights=weights, k=k, power=power, alpha=alpha, taps=taps, seed=seed
    )
    tuner_class = _tuner_class(tuner)
    options = {
        "objective": objective,
        "executions_per_trial": executions_per_trial,
        # KerasTuner takes a seed of 0 for none.
        "seed": None if seed is None else seed + 1,
        "project_name": "penalty_weights",
        **_budget(tuner_class, trials, hypermodel, fit_options),
        **(tuner_options or {}),
    }
    if directory is None:
        directory = tempfile.mkdtemp(prefix="keras_lgg_tuning_")
        weakref.finalize(hypermodel, shutil.rmtree, directory, ignore_errors=True)
    tuner = tuner_class(hypermodel, directory=directory, overwrite=overwrite, **options)
    _check_resumed(tuner)
    if isinstance(tuner, kt.GridSearch):
        _restore_grid(tuner.oracle)
    _start_without_penalties(tuner.oracle, hypermodel._spaces)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    callbacks = fit_options.pop("callbacks", None) or []
    callbacks = [*(callbacks if isinstance(callbacks, list | tuple) else [callbacks])]
    tuner.search(
        x=x,
        y=y,
        sample_weight=sample_weight,
        validation_data=validation_data,
        callbacks=[_ObjectiveIsLogged(tuner.oracle.objective), *callbacks],
        **fit_options,
    )
    _warn_of_failures(tuner.oracle)
    return PenaltySearch(tuner)


# The model of a trial.


def _key(hp):
    """What tells trials apart, to count how often each was trained."""
    return tuple(sorted(hp.values.items()))


def _check_model(model, penalties):
    """Raise where the model cannot be trained, or a penalty does nothing or not as weighted."""
    if not isinstance(model, keras.Model) or not model.compiled:
        received = f"a {type(model).__name__}"
        received += " that is not compiled" if isinstance(model, keras.Model) else ""
        # A fatal error ends a search; any other is a trial that failed.
        raise kt.errors.FatalValueError(
            "Invalid value for argument `build`. Expected a function that returns a compiled "
            f"keras.Model. Received: one that returned {received}."
        )
    acting = list(_acting(model))
    for penalty in penalties:
        weights = [weight for loss, weight in acting if loss is penalty.loss]
        if not any(math.isclose(w, penalty.weight, rel_tol=1e-5) for w in weights):
            found = f"it with the weights {weights}" if weights else "a model without its loss"
            raise kt.errors.FatalValueError(
                f"The penalty '{penalty.name}' does not act with its weight. Expected each of "
                "the penalties that build(penalties) is given in the model that it returns: in "
                "lgg.GeometryModel(base, penalties) or lgg.Distiller, as "
                "lgg.layers.GeometryPenalty(penalty.loss, float(penalty.weight)), or as "
                "compile(loss=penalty.loss, loss_weights=float(penalty.weight)). Received: "
                f"{found}."
            )


def _acting(model):
    """Each loss in a model that may be one of a penalty, with its weight."""
    for layer in model._flatten_layers():
        if isinstance(layer, PenalizedModel):
            yield from ((penalty.loss, float(penalty.weight)) for penalty in layer.penalties)
        elif isinstance(layer, GeometryPenalty):
            yield layer.loss, float(layer.weight)
    losses = keras.tree.flatten(model.loss)
    weights = keras.tree.flatten(model.get_compile_config().get("loss_weights"))
    if weights == [None]:
        weights = [1.0] * len(losses)
    yield from zip(losses, weights, strict=False)


# The search.


def _tuner_class(tuner):
    if isinstance(tuner, type) and issubclass(tuner, kt.Tuner):
        return tuner
    check_choice("tuner", tuner, (*TUNERS, "a class of keras_tuner.Tuner"))
    if tuner == "bayesian":
        require("sklearn.gaussian_process", "tuner")
    return getattr(kt, TUNERS[tuner])


def _budget(tuner_class, trials, hypermodel, fit_options):
    """The arguments of a tuner that limit its trials."""
    if issubclass(tuner_class, kt.Hyperband):
        if trials is not None:
            expected = "None with Hyperband, whose trials follow from `epochs` and `factor`"
            raise invalid("trials", expected, repr(trials))
        return {"max_epochs": fit_options.get("epochs", 1)}
    if trials is not None:
        check_positive_integer("trials", trials)
    if not issubclass(tuner_class, kt.GridSearch):
        return {"max_trials": trials or 10}
    size = math.prod(space.combinations() for space in hypermodel._spaces)
    if trials is not None and trials < size:
        # It would leave out the largest weights, as it begins with the least.
        expected = (
            f"None, for all combinations in the grid, of which there are {size} or more; or fewer "
            "of them, by weights=(low, high, count)"
        )
        raise invalid("trials", expected, repr(trials))
    return {"max_trials": trials}


def _check_resumed(tuner):
    """Raise where the directory holds a search of another space, which KerasTuner would go on."""
    hypermodel = tuner.hypermodel
    names = {name for space in hypermodel._spaces for name in space.names}
    asked = kt.HyperParameters()
    hypermodel.penalties(asked)
    held = [p.get_config() for p in tuner.oracle.get_space().space if p.name in names]
    asked = [p.get_config() for p in asked.space]
    if held != asked:
        raise ValueError(
            f"The directory '{tuner.project_dir}' holds a search of another space. Expected "
            f"{asked}. Received: {held}. Name another `directory`, or pass overwrite=True."
        )


def _restore_grid(oracle):
    """What KerasTuner 1.4.8 forgets, and needs to go on with a grid: the order of its trials."""
    for before, trial in itertools.pairwise([None, *oracle.start_order]):
        oracle._ordered_ids.insert(trial, before)
    oracle._populate_next.extend(oracle.start_order[-1:])


def _start_without_penalties(oracle, spaces):
    """Let the first trial be the one with all searched weights 0."""
    # KerasTuner keeps each oracle for ever: it must not hold the model, nor a temporary folder.
    off = {f"{space.template.name}/weight": 0.0 for space in spaces if space.weights is not None}
    populate = oracle.populate_space

    def populate_space(trial_id):
        is_first = not oracle.trials
        response = populate(trial_id)
        if is_first and response["status"] == "RUNNING":
            response["values"].update(off)
        return response  # KerasTuner takes out the values of what is off

    oracle.populate_space = populate_space


class _ObjectiveIsLogged(keras.callbacks.Callback):
    """Ends the search where the objective is none of the metrics; KerasTuner would go on."""

    def __init__(self, objective) -> None:
        super().__init__()
        self.objective = objective

    def on_epoch_end(self, epoch, logs=None):
        if not self.objective.has_value(logs):
            raise kt.errors.FatalValueError(
                f"Invalid value for argument `objective`. Expected one of {sorted(logs)}. "
                f"Received: {self.objective}."
            )


def _warn_of_failures(oracle):
    failed = [trial for trial in oracle.trials.values() if trial.status != "COMPLETED"]
    if failed:
        reasons = [
            f"{trial.trial_id} ({trial.message.splitlines()[-1] if trial.message else 'NaN'})"
            for trial in failed
        ]
        warnings.warn(
            f"{len(failed)} of {len(oracle.trials)} trials failed and are left out: "
            f"{', '.join(reasons)}.",
            stacklevel=3,
        )


def _cells(row):
    """The texts of one row of the table but the score, by column."""
    cells = {"trial": row["trial"]}
    cells |= {f"weight of {name}": f"{weight:.3g}" for name, weight in row["weights"].items()}
    for name, value in row["hyperparameters"].items():
        if name == "tuner/epochs":
            cells["epochs"] = str(value)
        elif not name.startswith("tuner/"):  # the notes of Hyperband
            cells[name] = f"{value:.3g}" if isinstance(value, float) else str(value)
    return cells
