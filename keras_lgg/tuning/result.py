"""The result of a search."""

from typing import Any

import keras
import keras_tuner as kt

from keras_lgg.checks import invalid
from keras_lgg.training.penalties import Penalty
from keras_lgg.tuning.hypermodel import PenaltyHyperModel
from keras_lgg.tuning.storage import check_trial


class PenaltySearch:
    """The result of a search: its trials, the best weights, and the models trained with them.

    Args:
        tuner: A KerasTuner tuner that has searched a `PenaltyHyperModel`.

    Attributes:
        tuner: The tuner.
        trials: List of dicts, one for each completed trial, in order: ``"trial"``, the name of the
            trial; ``"weights"``, a dict from each penalty to its weight; ``"hyperparameters"``, a
            dict of everything else that was searched; ``"score"``, the value of the objective;
            ``"metrics"``, a dict of all metrics. Score and metrics are those of the epoch with the
            best score, averaged over the executions of the trial.
        best_weights: Dict from the name of each penalty to its weight in the best trial.

    Raises:
        ValueError: If the tuner searches anything other than a `PenaltyHyperModel`.
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
                "The search has no result. Expected at least one completed trial. "
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
        """Fresh penalties with the choices of the best trial, to train with again."""
        return self.tuner.hypermodel.penalties(self._completed()[0].hyperparameters)

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """The trained models of the best trials, best first, as they were after their best epochs.

        Args:
            num_models: How many models to return; fewer if fewer trials were completed.

        Raises:
            ValueError: If their files are not as `search_penalty_weights` wrote them.
        """
        best = self._completed()[:num_models]
        for trial in best:
            check_trial(self.tuner.get_trial_dir(trial.trial_id))
        return self.tuner.get_best_models(len(best))

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


def _cells(row):
    """The texts of one row of the table except the score, by column."""
    cells = {"trial": row["trial"]}
    cells |= {f"weight of {name}": f"{weight:.3g}" for name, weight in row["weights"].items()}
    for name, value in row["hyperparameters"].items():
        if name == "tuner/epochs":
            cells["epochs"] = str(value)
        elif not name.startswith("tuner/"):  # Hyperband's own notes
            cells[name] = f"{value:.3g}" if isinstance(value, float) else str(value)
    return cells
