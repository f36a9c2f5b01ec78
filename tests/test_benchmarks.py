"""The benchmarks compare like with like, and their page is rewritten section by section."""

import numpy as np
import pytest
from autodiff import BACKEND, MODES, value_and_grads

if BACKEND == "torch":
    pytest.skip("the benchmarks measure TensorFlow and JAX", allow_module_level=True)

from benchmarks import __main__ as command
from benchmarks import (
    compilation,
    losses,
    memory,
    micro_batches,
    projections,
    replicas,
    retrieval,
    steps,
    timing,
)
from keras_lgg import graphs
from keras_lgg import losses as ours

pytestmark = pytest.mark.ci
LARGE = 512


@pytest.mark.parametrize("name", losses.LOSSES)
def test_ours_and_the_dense_form_agree(name):
    arrays = [np.asarray(a) for a in losses.batch(LARGE, 64)]
    x, teacher, labels = arrays
    (found, (gradient,)), (expected, (wanted,)) = (
        value_and_grads(lambda x, f=form: f(x, teacher, labels), [x], MODES[-1])
        for form in losses.LOSSES[name]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, atol=1e-4 * np.abs(wanted).max())


BLOCKED = {
    "label smoothness, p = 2": lambda x, t, y, b: graphs.label_smoothness(
        x, y, power=2, num_classes=10, block_size=b
    ),
    "GKD": lambda x, t, y, b: ours.graph_distillation(t, x, block_size=b),
    "GKD, k = 16": lambda x, t, y, b: ours.graph_distillation(t, x, k=16, block_size=b),
    "RKD-D": lambda x, t, y, b: ours.relational_distance(t, x, block_size=b) / LARGE,
    "GSL": lambda x, t, y, b: ours.graph_smoothness(y, x, block_size=b),
    "graph variation, k = 16": lambda x, t, y, b: ours.graph_variation([t, x], k=16, block_size=b),
    "target graph": lambda x, t, y, b: ours.target_graph(y, x, block_size=b),
}


@pytest.mark.parametrize("name", losses.LOSSES)
def test_blocks_of_any_size_agree_with_the_dense_form(name):
    x, teacher, labels = (np.asarray(a) for a in losses.batch(LARGE, 64))
    expected, (wanted,) = value_and_grads(lambda x: losses.LOSSES[name][1](x, teacher, labels), [x])
    for block_size in (17, 128, 300, 512):
        found, (gradient,) = value_and_grads(
            lambda x, b=block_size: BLOCKED[name](x, teacher, labels, b), [x], MODES[1]
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, wanted, atol=1e-4 * np.abs(wanted).max())


def test_no_matrix_over_pairs_in_memory():
    def matrix(n):
        return 4 * n * n / 2**20

    assert memory._peak("GKD", 4096, 64, 1, False) > matrix(4096)  # dense: the meter sees it
    assert memory._peak("GKD", 8192, 64, 0, False) < 0.5 * matrix(8192)


def test_exponent_and_medians():
    assert timing.exponent([10, 100], [3.0, 300.0]) == pytest.approx(2)
    calls = []
    found = timing.medians(
        {"a": (calls.append, "a"), "b": (calls.append, "b")}, seconds=0.0, least=3
    )
    assert set(found) == {"a", "b"}
    assert calls == ["a", "b"] + 3 * ["a", "a", "b", "b"]  # compiled, then warm and measured


def test_tables(capsys):
    rows = list(losses.ratios((32,), (8,), jit=True, seconds=0))
    assert [row["loss"] for row in rows] == list(losses.LOSSES)
    assert all(float(row["dense / ours"]) > 0 for row in rows)
    text = command.table(rows)
    assert capsys.readouterr().out.strip() == text
    assert text.splitlines()[0] == "| loss | d | n | ms | dense / ours |"


def test_projections():
    rows = list(projections.ratios(((64, 8, 4),), jit=True, seconds=0))
    assert [(row["similarity"], row["normalization"]) for row in rows] == list(projections.KINDS)
    assert all(float(row["ours / bare product"]) > 0 for row in rows)


def test_retrieval():
    rows = list(retrieval.against_products(300, seconds=0))
    assert [row["relevant"] for row in rows] == [9, 29, 1, ""]
    assert all(float(row["ours / bare products"]) > 0 for row in rows)
    x = np.ones((1000, 100), "float32")
    assert retrieval.peak(lambda: x @ x.T) == pytest.approx(4e6 / 2**20, rel=0.05)


def test_a_part_alone_and_a_wrong_one(monkeypatch, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(projections, "SHAPES", ((64, 8, 4),))
    monkeypatch.setattr("sys.argv", ["benchmarks", "relative", "--seconds", "0.01"])
    command.main()
    titles = [line for line in page.read_text().splitlines() if line.startswith("## ")]
    name = command.NAMES[BACKEND]
    programs = [name] if BACKEND == "jax" else [name, f"{name}, XLA"]
    assert titles == [f"## {program}: relative" for program in programs]
    monkeypatch.setattr("sys.argv", ["benchmarks", "relatives"])
    with pytest.raises(SystemExit):
        command.main()
    assert "'relatives'" in capsys.readouterr().err


def test_taps_of_the_networks_whose_first_steps_are_measured():
    for network in compilation.NETWORKS.values():
        names = network.names(network.build(), network.taps)
        assert len(set(names)) == network.taps


def test_first_steps():
    network = compilation.NETWORKS["ResNet50"]._replace(build=steps.mlp, taps=2, pairs=2)
    rows = list(compilation.first_steps(network, builds=1, jit=True))
    assert [row["ratio"] for row in rows[::2]] == ["1.00", "1.00"]
    assert all(float(row["s"]) > 0 for row in rows)


@pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning")  # of Keras's distiller
def test_training_steps(monkeypatch):
    monkeypatch.setattr(steps, "BUILDS", 1)
    for measure, cases in (
        (steps.geometry_steps, steps.PENALIZED),
        (steps.distillation_steps, steps.DISTILLED),
    ):
        (row,) = measure(list(cases)[:1], jit=True, seconds=0)
        ratios = [float(value.partition(" ")[0]) for value in list(row.values())[1:]]
        assert all(0 < ratio < 1000 for ratio in ratios)


def test_parts_of_a_batch():
    (row,) = micro_batches.against_whole(["MLP"], 512, 16, jit=True, seconds=0.1)
    assert float(row["step, to a whole one"]) > 0
    if BACKEND == "jax":  # which says what the program takes
        assert micro_batches._peak("ResNet", "mean", 128, 8, jit=True) < 0.25 * (
            micro_batches._peak("ResNet", "mean", 128, None, jit=True)
        )
    representations = {
        p: micro_batches._representations("ResNet", p, 1024) for p in ("mean", "None")
    }
    assert representations["mean"] == pytest.approx(4 * 1024 * (16 + 16 + 32 + 64) / 2**20)
    assert representations["None"] == pytest.approx(176)


def test_replicas_send_less_by_sums():
    rows = {row["loss"]: row for row in replicas.traffic(1)}
    assert len(rows) == 4
    assert float(rows["smoothness variation, p = 2"]["ratio"]) < 0.1
    assert all(float(row["ratio"]) <= 1.0 for row in rows.values())


def test_the_page_keeps_its_other_sections(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    monkeypatch.setattr(command, "PAGE", page)
    for key, text in (("A", "one"), ("B", "two"), ("A", "three")):
        command.write(key, text)
    assert page.read_text() == (
        "# Title\n\n<!-- begin A -->\n\nthree\n\n<!-- end A -->\n\n"
        "<!-- begin B -->\n\ntwo\n\n<!-- end B -->\n"
    )
