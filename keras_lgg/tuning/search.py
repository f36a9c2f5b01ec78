"""The search for penalty weights, in one call."""

import itertools
import math
import pathlib
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner as kt

from keras_lgg.checks import check_choice, check_positive_integer, described_by, invalid, require
from keras_lgg.training.penalties import Penalty
from keras_lgg.tuning.hypermodel import PenaltyHyperModel
from keras_lgg.tuning.objectives import Measuring, is_measure
from keras_lgg.tuning.result import PenaltySearch
from keras_lgg.tuning.storage import check_search, keep_whole
from keras_lgg.types import Data, Taps

TUNERS = {
    "random": "RandomSearch",
    "bayesian": "BayesianOptimization",
    "hyperband": "Hyperband",
    "grid": "GridSearch",
}


@described_by(PenaltyHyperModel)
def search_penalty_weights(
    build: Callable[..., keras.Model],
    penalties: Penalty | Sequence[Penalty],
    data: Data,
    *,
    validation_data: Data,
    weights: Sequence[float] | Mapping[str, Sequence[float] | None] | None,
    k: Sequence[int | None] | Mapping[str, Sequence[int | None]] | None = None,
    power: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    alpha: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    taps: Mapping[str, Taps] | Mapping[str, Mapping[str, Taps]] | None = None,
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
    """Search for the weights of penalties, and for more of their arguments, on validation data.

    Each trial trains a model. In the first one, all penalties whose weights are searched have the
    weight 0, so the model without them always competes. Never pass the test split as
    ``validation_data``: the best of many trials looks better there than it is.

    Args:
        data: Training data: ``(x, y)``, ``(x, y, sample_weight)``, or anything else that
            `keras.Model.fit` takes as ``x``, such as a dataset.
        validation_data: Held-out data to choose by, in one of the same forms.
        objective: What to choose by; the best value over the epochs of a trial counts. Either a
            measure of `compare`, such as ``"noise_accuracy"``, ``"recall@1"`` or
            ``"student_accuracy"``, taken on ``validation_data`` at the end of each epoch, which
            then must be arrays ``(x, y)``. Or the name of a metric that KerasTuner knows to
            minimise or maximise, a ``keras_tuner.Objective`` such as
            ``Objective("val_smoothness_variation", "min")``, or a list of these. Judged by clean
            accuracy, the best weight of a penalty for robustness is 0.
        trials: Number of trials; by default 10, or the whole grid. Hyperband takes no number: it
            follows from ``epochs`` and ``factor``.
        tuner: ``"bayesian"``, ``"random"``, ``"hyperband"``, ``"grid"``, or a tuner class.
        executions_per_trial: Number of models trained in each trial; their mean score counts.
        seed: Seed of the tuner, and of the initial weights and batches of the models as in
            `PenaltyHyperModel`. With a seed, the same call makes the same trials.
        directory: Folder for the trials and their models. A call with the same folder continues
            the search in it, also after it was killed. By default a temporary folder, which is
            deleted with the result.
        overwrite: Whether to delete a search in the directory first.
        tuner_options: Dict of further arguments of the tuner class, such as ``{"factor": 2}``.
        **fit_options: Further arguments of `keras.Model.fit`, such as ``epochs``, ``batch_size``,
            ``callbacks`` (which are copied for each trial) and ``verbose``.

    Returns:
        `PenaltySearch`.

    Raises:
        ValueError: If an argument has none of these forms, the models do not log the objective, or
            the directory holds a search of another space, or one that has been changed since it
            was written. See also `PenaltyHyperModel`.
        RuntimeError: If all trials fail, or as many in a row as the tuner's
            ``max_consecutive_failed_trials``. If fewer fail, there is a warning.
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
    measuring = []
    if isinstance(objective, str) and is_measure(objective):
        measuring = [Measuring(objective, hypermodel.taps, validation_data)]
        objective = measuring[0].objective
    options = {
        "objective": objective,
        "executions_per_trial": executions_per_trial,
        # KerasTuner reads a seed of 0 as none.
        "seed": None if seed is None else seed + 1,
        "project_name": "penalty_weights",
        **_budget(tuner_class, trials, hypermodel, fit_options),
        **(tuner_options or {}),
    }
    if directory is None:
        directory = tempfile.mkdtemp(prefix="keras_lgg_tuning_")
        weakref.finalize(hypermodel, shutil.rmtree, directory, ignore_errors=True)
    if not overwrite:
        check_search(pathlib.Path(directory) / options["project_name"])
    searcher = tuner_class(hypermodel, directory=directory, overwrite=overwrite, **options)
    keep_whole(searcher)
    _check_resumed(searcher)
    if isinstance(searcher, kt.GridSearch):
        _restore_grid(searcher.oracle)
    _start_without_penalties(searcher.oracle, hypermodel._spaces)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    callbacks = fit_options.pop("callbacks", None) or []
    callbacks = [*(callbacks if isinstance(callbacks, list | tuple) else [callbacks])]
    searcher.search(
        x=x,
        y=y,
        sample_weight=sample_weight,
        validation_data=validation_data,
        callbacks=[*measuring, _ObjectiveIsLogged(searcher.oracle.objective), *callbacks],
        **fit_options,
    )
    _warn_of_failures(searcher.oracle)
    return PenaltySearch(searcher)


def _tuner_class(tuner):
    if isinstance(tuner, type) and issubclass(tuner, kt.Tuner):
        return tuner
    check_choice("tuner", tuner, (*TUNERS, "a class of keras_tuner.Tuner"))
    if tuner == "bayesian":
        require("sklearn.gaussian_process", "tuner")
    return getattr(kt, TUNERS[tuner])


def _budget(tuner_class, trials, hypermodel, fit_options):
    """The tuner's arguments that limit its trials."""
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
        # It would leave out the largest weights, since it starts with the smallest.
        expected = (
            f"None, for all combinations in the grid, of which there are {size} or more; or fewer "
            "of them, by weights=(low, high, count)"
        )
        raise invalid("trials", expected, repr(trials))
    return {"max_trials": trials}


def _check_resumed(tuner):
    """Raise if the directory holds a search of another space; KerasTuner would continue it."""
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
    """Restore the order of a grid's trials, which KerasTuner 1.4.8 forgets but needs to go on."""
    for before, trial in itertools.pairwise([None, *oracle.start_order]):
        oracle._ordered_ids.insert(trial, before)
    oracle._populate_next.extend(oracle.start_order[-1:])


def _start_without_penalties(oracle, spaces):
    """Make the first trial the one in which all searched weights are 0."""
    # KerasTuner keeps every oracle forever: it must hold neither the model nor a temporary folder.
    off = {f"{space.template.name}/weight": 0.0 for space in spaces if space.weights is not None}
    populate = oracle.populate_space

    def populate_space(trial_id):
        is_first = not oracle.trials
        response = populate(trial_id)
        if is_first and response["status"] == "RUNNING":
            response["values"].update(off)
        return response  # KerasTuner removes the values of what is off

    oracle.populate_space = populate_space


class _ObjectiveIsLogged(keras.callbacks.Callback):
    """Ends the search if the objective is not among the metrics; KerasTuner would go on."""

    def __init__(self, objective):
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
