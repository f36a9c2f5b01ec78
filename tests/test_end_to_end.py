"""The README's code and the quickstart, run as a user runs them."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def test_readme_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    shared = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), shared)
    assert (tmp_path / "deploy.keras").exists()
    assert (tmp_path / "student.keras").exists()
    accuracy = float(re.search(r"10-NN accuracy: ([\d.]+)", capsys.readouterr().out)[1])
    assert accuracy > 0.85
    for name in ("model", "distiller"):
        logs = shared[name].evaluate(
            shared["x_test"], shared["y_test"], verbose=0, return_dict=True
        )
        assert logs["accuracy"] > 0.7
