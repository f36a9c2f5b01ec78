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

    figure = tmp_path / "figure.png"
    results = quickstart.main(["--quick", "--figure", str(figure)])
    output = capsys.readouterr().out
    assert figure.stat().st_size > 10_000

    plain, smooth = (results["robustness"][name] for name in ("plain", "smooth geometry"))
    assert min(plain["clean"][0], smooth["clean"][0]) > 95
    # One seed: the gain of about 2 points has a spread of 1, and rounding differs by machine.
    assert smooth["noise 0.4"][0] > plain["noise 0.4"][0] - 2
    assert plain["clean"][0] > plain["noise 0.2"][0] > plain["noise 0.4"][0] > 30

    accuracy = {name: rows["accuracy"][0] for name, rows in results["distillation"].items()}
    assert accuracy["teacher"] > 96
    assert all(85 < accuracy[name] < accuracy["teacher"] for name in accuracy if name != "teacher")

    errors = {name: rows["10-NN error"][0] for name, rows in results["embeddings"].items()}
    assert set(errors) == {"cross-entropy", "graph smoothness"}
    assert all(0 < error < 6 for error in errors.values())

    for rows in results.values():
        for variant, metrics in rows.items():
            assert variant in output
            assert all(f"{values[0]:.1f}" in output for values in metrics.values())
