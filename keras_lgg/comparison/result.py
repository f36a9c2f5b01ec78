"""The result of a comparison: the values of each run, effects, a verdict, a figure."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from keras_lgg import checks
from keras_lgg.plots.comparison import effects as draw_effects
from keras_lgg.types import DataFrame, Figure


class Quantity(Protocol):
    """What is known about a measured quantity: a `Measure` without the function that takes it."""

    @property
    def name(self) -> str: ...

    @property
    def best(self) -> str: ...

    @property
    def is_share(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The values of each variant in each run, their effects, and a verdict in words.

    An effect is the mean difference to the baseline, over runs of the same seed. It counts as
    better or worse if it exceeds its spread, the standard deviation of these differences. Printing
    the object shows `to_markdown` and `verdict`.

    Attributes:
        values: Dict from the name of each variant, the baseline first, to a dict from the name of
            each measure to an array ``(seeds,)``; shares are in percent.
        measures: The measures, or any objects with their ``name``, ``best`` and ``is_share``.
        seeds: The seeds of the runs.

    Example:
        >>> import numpy as np
        >>> from keras_lgg.comparison import Comparison, Measure
        >>> errors = Measure("error", lambda network, x, y: 0.0, best="min", is_share=True)
        >>> values = {"plain": {"error": np.array([4.0, 5])}, "ours": {"error": np.array([3.0, 3])}}
        >>> print(Comparison(values, [errors], [0, 1]).verdict())
        ours against plain: error -1.5 ± 0.7 points. Better in error, beyond the spread of 2 seeds.
    """

    values: dict[str, dict[str, np.ndarray]]
    measures: Sequence[Quantity]
    seeds: list[int]

    @property
    def baseline(self) -> str:
        """Name of the variant that the others are compared with."""
        return next(iter(self.values))

    def effects(self) -> dict[str, dict[str, tuple[float, float]]]:
        """The effect of each variant on each measure: mean and spread of the differences.

        Differences are taken to the baseline's run of the same seed. The spread is their sample
        standard deviation, NaN for a single seed.
        """
        base = self.values[self.baseline]
        return {
            variant: {name: _mean_and_spread(found[name] - base[name]) for name in found}
            for variant, found in self.values.items()
            if variant != self.baseline
        }

    def verdict(self) -> str:
        """One line per variant: what it gains and loses, and whether beyond the spread."""
        return "\n".join(self._line(*each) for each in self.effects().items())

    def _line(self, variant, effects):
        parts = [
            f"{measure.name} {_signed(*effects[measure.name], measure)}"
            for measure in self.measures
        ]
        better = [m.name for m in self.measures if _is_beyond(effects[m.name], m.best)]
        worse = [m.name for m in self.measures if _is_beyond(effects[m.name], _other(m.best))]
        said = [f"better in {' and '.join(better)}"] if better else []
        said += [f"worse in {' and '.join(worse)}"] if worse else []
        if len(self.seeds) == 1:
            conclusion = "One seed has no spread."
        elif said:
            found = ", ".join(said)
            where = f"beyond the spread of {len(self.seeds)} seeds"
            conclusion = f"{found[0].upper()}{found[1:]}, {where}."
        else:
            conclusion = f"All within the spread of {len(self.seeds)} seeds."
        return f"{variant} against {self.baseline}: {'; '.join(parts)}. {conclusion}"

    def to_frame(self) -> DataFrame:
        """A pandas DataFrame, one row per run: ``variant``, ``seed``, one column per measure."""
        pandas = checks.require("pandas", "robustness")
        return pandas.concat(
            [
                pandas.DataFrame({"variant": variant, "seed": self.seeds, **found})
                for variant, found in self.values.items()
            ],
            ignore_index=True,
        )

    def to_markdown(self) -> str:
        """A table of means ± standard deviations over the seeds, with the effects."""
        head = ["", *map(_titled, self.measures)]
        rows = [head, ["---"] * len(head)]
        effects = self.effects()
        for variant, found in self.values.items():
            cells = []
            for m in self.measures:
                mean, spread = _mean_and_spread(found[m.name])
                text = f"{mean:.{_digits(m)}f}" + _plus_minus(spread, m)
                if variant in effects:
                    text += f" ({_signed(*effects[variant][m.name], m)})"
                cells.append(text)
            rows.append([variant, *cells])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def __str__(self) -> str:
        return f"{self.to_markdown()}\n\n{self.verdict()}"

    def _repr_markdown_(self) -> str:
        lines = self.verdict().splitlines()
        return "\n".join([self.to_markdown(), "", *(f"* {line}" for line in lines)])

    def plot(self, **options: Any) -> Figure:
        """The figure that `plots.effects` draws of these values; it takes the same options."""
        return draw_effects(
            {
                _titled(m): {variant: found[m.name] for variant, found in self.values.items()}
                for m in self.measures
            },
            **options,
        )


def _titled(measure):
    return f"{measure.name} (%)" if measure.is_share else measure.name


def _mean_and_spread(values):
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), spread


def _is_beyond(effect, best):
    """Whether an effect is better (with the other ``best``, worse) beyond its spread."""
    mean, spread = effect
    return (mean if best == "max" else -mean) > spread  # never, where that is NaN


def _other(best):
    return "min" if best == "max" else "max"


def _digits(measure):
    return 1 if measure.is_share else 3


def _signed(mean, spread, measure):
    unit = " points" if measure.is_share else ""
    return f"{mean:+.{_digits(measure)}f}{_plus_minus(spread, measure)}{unit}"


def _plus_minus(spread, measure):
    return "" if np.isnan(spread) else f" ± {spread:.{_digits(measure)}f}"
