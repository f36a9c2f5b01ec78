"""The README's code and the quickstart, run as a user runs them."""

import pathlib
import re

import keras
import pytest
from autodiff import BACKEND

import keras_lgg as lgg

pytestmark = pytest.mark.ci
ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.skipif(BACKEND != "tensorflow", reason="examples run on one backend")
def test_readme_code_runs(tmp_path, monkeypatch):
    """And shows the gains that it speaks of."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    shared = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), shared)
    assert "keras_lgg" not in str(keras.saving.load_model("deploy.keras").get_config())
    [gains] = shared["robust"].effects().values()
    assert gains["dropped_units_accuracy"][0] > 2 * gains["dropped_units_accuracy"][1] > 0
    assert gains["noise_accuracy"][0] > 0.5
    assert gains["accuracy"][0] > -1
    of_students = shared["distilled"].effects()
    assert of_students["RKD-D"]["accuracy"][0] > of_students["RKD-D"]["accuracy"][1]
    assert abs(of_students["RKD-D"]["accuracy"][0] - of_students["logits"]["accuracy"][0]) < 5
    precision = {name: found["map@r"] for name, found in shared["embedded"].values.items()}
    pixels = lgg.retrieval.evaluate(shared["x_test"], labels=shared["y_test"])["map@r"]
    assert precision["graph smoothness"].min() > 100 * pixels + 10
    assert precision["graph smoothness"].mean() > precision["cross-entropy"].mean()
    accuracies = {name: row["stitched"] for name, row in shared["report"].summary().items()}
    assert accuracies["relative"] > 0.85
    assert accuracies["translated"] > 0.85
    assert max(accuracies["permuted anchors"], accuracies["absolute"]) < 0.3


@pytest.mark.once
def test_quickstart(tmp_path, capsys):
    import quickstart  # of examples/

    found = quickstart.main(["--quick", "--output", str(tmp_path)])
    output = capsys.readouterr().out
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
    assert "<html" in (tmp_path / "networks.html").read_text()[:200].lower()

    def means(task):
        return {
            variant: {name: float(values[0]) for name, values in of.items()}
            for variant, of in found[task].values.items()
        }

    # One seed and half the epochs: what the method brings is seen, its size is not asserted.
    robust = means("robustness")
    assert min(of["clean"] for of in robust.values()) > 75
    assert robust["smooth geometry"]["noise 0.2"] > robust["plain"]["noise 0.2"]
    assert robust["plain"]["clean"] > robust["plain"]["noise 0.1"] > robust["plain"]["noise 0.3"]
    student = {variant: of["accuracy"] for variant, of in means("distillation").items()}
    assert student["RKD-D"] > student["student alone"]
    assert student["the teacher"] > max(student["RKD-D"], student["GKD"], 95)
    embedded = means("embeddings")
    noisy = {variant: of["10-NN, noise 0.2"] for variant, of in embedded.items()}
    assert noisy["graph smoothness"] > noisy["cross-entropy"] > noisy["2 principal components"]
    assert embedded["all 64 pixels"]["10-NN"] > 95
    heads = means("stitching")
    assert heads["relative"]["exchanged"] > 80 > 30 > heads["absolute"]["exchanged"]
    assert heads["Procrustes"]["own head"] == heads["absolute"]["own head"]

    for comparison in found.values():
        assert str(comparison) in output
