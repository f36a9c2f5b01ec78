"""Writes tests/golden/retrieval.json: what pytorch-metric-learning 2.9 makes of drawn embeddings.

python tests/support/retrieval_golden.py    # where pytorch-metric-learning is installed
"""

import json
import pathlib

import numpy as np
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

FILE = pathlib.Path(__file__).parents[1] / "golden" / "retrieval.json"
NAMES = {
    "precision_at_1": "precision@1",
    "r_precision": "r_precision",
    "mean_average_precision_at_r": "map@r",
    "mean_reciprocal_rank": "mrr",
}
CASES = [
    {"name": "balanced", "seed": 0, "n": 120, "d": 5, "classes": 6, "keys": 0},
    {"name": "singletons", "seed": 1, "n": 60, "d": 3, "classes": 50, "keys": 0},
    {"name": "one class", "seed": 2, "n": 30, "d": 4, "classes": 1, "keys": 0},
    {"name": "queries and keys", "seed": 3, "n": 40, "d": 6, "classes": 8, "keys": 90},
    {"name": "classes without keys", "seed": 4, "n": 40, "d": 6, "classes": 60, "keys": 30},
    {"name": "many of a class", "seed": 5, "n": 900, "d": 8, "classes": 6, "keys": 0},
    {"name": "few of many", "seed": 6, "n": 300, "d": 8, "classes": 90, "keys": 1500},
]


def found(case):
    rng = np.random.default_rng(case["seed"])
    x = rng.normal(size=(case["n"], case["d"])).astype("float32")
    labels = rng.integers(0, case["classes"], case["n"])
    given = {}
    if case["keys"]:
        keys = rng.normal(size=(case["keys"], case["d"])).astype("float32")
        given = {"reference": torch.tensor(keys)}
        given["reference_labels"] = torch.tensor(rng.integers(0, case["classes"], case["keys"]))
    calculator = AccuracyCalculator(
        include=tuple(NAMES),
        k=(case["keys"] or case["n"] - 1),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=False)),
    )
    values = calculator.get_accuracy(torch.tensor(x), torch.tensor(labels), **given)
    return {NAMES[name]: float(value) for name, value in values.items()}


if __name__ == "__main__":
    cases = [{**case, "found": found(case)} for case in CASES]
    FILE.write_text(json.dumps(cases, indent=1) + "\n")
