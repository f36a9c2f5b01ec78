"""What is measured on a GPU runs in small on a CPU, so that it works when one is at hand."""

import io
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from autodiff import BACKEND

if BACKEND != "jax":
    pytest.skip("these benchmarks are of JAX", allow_module_level=True)

from benchmarks import gpu, paper_setting, steps

pytestmark = pytest.mark.ci
ROOT = pathlib.Path(__file__).parents[1]


def test_tables(monkeypatch):
    monkeypatch.setattr(steps, "BUILDS", 1)
    found = {caption: list(rows) for caption, rows in gpu.tables(4, small=True)}
    assert len(found) == len(gpu.SHARES) == 7
    assert sum(gpu.SHARES.values()) == pytest.approx(1.0)
    products, of_the_rate, blocks, neighbours, parts, training, authors = found.values()
    assert [row["products"] for row in products] == [*gpu.MODES]
    assert len(of_the_rate) == 2 * len(gpu.OPERATIONS)
    assert len(neighbours) == 4
    assert [len(rows) for rows in (blocks, parts, training)] == [1, 1, 4]
    for row in authors:
        assert float(row["value, float32"]) < 1e-4
        assert float(row["gradient, float32"]) < 1e-4


def test_what_the_time_does_not_reach_is_said():
    rows = gpu.within(0, ({"loss": i, "n": 2 * i} for i in range(3)))
    assert list(rows) == [{"loss": 0, "n": 0}, {"loss": "out of time", "n": ""}]
    assert len(list(gpu.within(0, ({"n": i} for i in range(1))))) == 1


def test_without_tensorflow():
    """Nor what else such a machine lacks."""
    lacking = ("tensorflow", "pandas", "matplotlib", "tensorflow_datasets", "keras_tuner")
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking})); import benchmarks.__main__"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def packed(rng, count):
    from PIL import Image

    files = []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype="uint8")).save(file, "JPEG")
        files.append(file.getvalue())
    return {
        "bytes": np.frombuffer(b"".join(files), "uint8"),
        "ends": np.cumsum([len(file) for file in files]),
        "labels": rng.integers(0, 10, count),
    }


def test_the_papers_setting(tmp_path, capsys):
    rng = np.random.default_rng(0)
    data, page = tmp_path / "images.npz", tmp_path / "page.md"
    splits = {"train": packed(rng, 200), "test": packed(rng, 20)}
    np.savez(data, **{f"{s}_{name}": a for s, kept in splits.items() for name, a in kept.items()})
    page.write_text("# Results\n")
    policy = keras.config.dtype_policy()
    try:
        paper_setting.main([str(data), "--minutes", "0.01", "--width", "2", "--record", str(page)])
    finally:
        keras.config.set_dtype_policy(policy)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| plain", "| smooth geometry"]
    assert "images.npz --minutes 0.01" in page.read_text()
    assert page.read_text().count("| smooth geometry | 1 |") == 1


def test_augmentation_moves_and_flips():
    image = np.arange(32 * 32, dtype="float32").reshape(1, 32, 32, 1) + 1
    rng = np.random.default_rng(0)
    found = paper_setting.augmented(np.repeat(image, 50, axis=0), rng)[..., 0]
    bordered = np.pad(image[0, ..., 0], 4)
    places = [bordered[i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
    wanted = {part.tobytes() for place in places for part in (place, place[:, ::-1])}
    assert {part.tobytes() for part in found} <= wanted
    assert len({part.tobytes() for part in found}) > 25
