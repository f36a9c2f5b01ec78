"""The README's code and the quickstart, run as a user runs them."""

import pathlib
import re

import pytest
from autodiff import BACKEND

pytestmark = pytest.mark.ci
ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.skipif(BACKEND == "jax", reason="XLA takes two minutes to compile all the networks")
def test_readme_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 9
    shared = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), shared)
    assert (tmp_path / "deploy.keras").exists()
    assert (tmp_path / "student.keras").exists()
    table = shared["table"].set_index(["perturbation", "severity"])["accuracy"]
    assert len(table) == 10
    assert table["Gaussian noise", 20] > table["Gaussian noise", 5]
    accuracy = float(re.search(r"10-NN accuracy: ([\d.]+)", capsys.readouterr().out)[1])
    assert accuracy > 0.85
    for name in ("model", "distiller"):
        logs = shared[name].evaluate(
            shared["x_test"], shared["y_test"], verbose=0, return_dict=True
        )
        assert logs["accuracy"] > 0.7
    stitched = shared["report"].summary()
    assert stitched["relative"]["self"] > 0.7
    assert stitched["relative"]["ratio"] > 0.8
    assert stitched["permuted anchors"]["stitched"] < 0.3
    assert sum(shared["latents"]["CAE"].levels[0].strata.values()) == 100
    assert (tmp_path / "disturbance.png").stat().st_size > 10_000
    assert shared["found"].trials[0]["weights"] == {"smoothness_variation": 0}
    assert len(shared["found"].trials) == 4
    assert len((tmp_path / "geometry.csv").read_text().splitlines()) == 1 + 6
    assert len(list((tmp_path / "graphs").iterdir())) == 2
    assert (tmp_path / "layers.png").stat().st_size > 10_000
    assert (tmp_path / "trials.png").stat().st_size > 10_000
    predicted = shared["offline"].predict(shared["x_test"], verbose=0).argmax(axis=1)
    assert (predicted == shared["y_test"]).mean() > 0.7


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
