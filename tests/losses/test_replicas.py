"""Replicas: several devices train the weights that one device does."""

import json
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from autodiff import BACKEND
from backends import ONE_DEVICE, needs

if BACKEND == "torch":
    pytest.skip(ONE_DEVICE, allow_module_level=True)

SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "replica_training.py"
VALUES = SCRIPT.with_name("replica_values.py")
WORKER = SCRIPT.with_name("worker_training.py")
EXAMPLE = SCRIPT.parents[2] / "examples" / "data_parallel.py"


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Where the first script leaves the trainings on one device for the others."""
    return "--known", tmp_path_factory.mktemp("replicas") / "one_device.pickle"


def trainings(*arguments):
    return json.loads(outputs([start(SCRIPT, *arguments)])[0][-1])


def start(script, *arguments):
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outputs(processes):
    """The lines that each process prints, which run at the same time."""
    lines = []
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
        lines.append(output.splitlines())
    return lines


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def assert_as_one_device(report, count):
    apart = report["apart"]
    assert len(apart) == count
    assert {name: value for name, value in apart.items() if not value < 1e-5} == {}
    for model, (one, several) in report["logs"].items():
        if model == "penalized":  # Keras logs the losses of layers once a replica
            one.pop("loss"), several.pop("loss")
        assert several == pytest.approx(one, rel=1e-4), model


def assert_apart(report, count):
    apart = report["apart"]
    assert len(apart) == count
    assert {name: value for name, value in apart.items() if not value > 5e-5} == {}


def test_a_graph_spans_two_replicas():
    assert_as_one_device(trainings(2, "--only", "embedders"), 3 + 1)


@pytest.mark.ci
def test_graphs_span_the_global_batch(known):
    assert_as_one_device(trainings(2, *known), 20 + 5)


@pytest.mark.ci
def test_a_graph_spans_four_replicas():
    assert_as_one_device(trainings(4, "--only", "penalized"), 6 + 1)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Elsewhere the compiler adds up by itself.")
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.ci)])
def test_sums_in_place_of_rows(count):
    """Of replicas with unequal parts; those losses alone are gathered that need all rows."""
    found = json.loads(outputs([start(VALUES, count)])[0][-1])
    assert len(found) == 23
    for name, case in found.items():
        # What is compared is a difference of two values, in float32.
        tolerance = 1e-4 if name.startswith("smoothness") else 1e-6
        assert case["value"] < tolerance, name
        assert case["gradients"] < 2e-6, name
    needs_rows = {"GKD, k-NN", "GKD, wide", "smoothness variation, uncounted"}
    assert {name for name, case in found.items() if case["gathered"]} == needs_rows


@pytest.mark.ci
@needs("batches that replicas share unevenly")
def test_an_uneven_last_batch():
    apart = trainings(2, "--samples", 59, "--xla")["apart"]
    assert len(apart) == 3 + 1
    assert all(value < 1e-5 for value in apart.values()), apart


@pytest.mark.ci
def test_local_graphs_are_others(known):
    assert_apart(trainings(2, "--local", *known), 16)


@pytest.mark.ci
@needs("several devices, `keras.distribution`")
def test_sharded_weights(known):
    assert_as_one_device(trainings(4, "--model-parallel", *known), 20 + 5)


@pytest.mark.ci
@needs("several processes, `fit`")
@pytest.mark.parametrize("local", [[], ["--local"]], ids=["global", "local"])
def test_two_processes(local, known):
    port = free_port()
    both = [start(SCRIPT, 2, *local, *known, "--process", i, "--port", port) for i in range(2)]
    for lines in outputs(both):
        report = json.loads(lines[-1])
        if local:
            assert_apart(report, 16)
        else:
            assert_as_one_device(report, 20 + 5)


@pytest.fixture(scope="module")
def reports():
    """What a training on one device and those of two workers say."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    workers = [start(WORKER, *addresses, i) for i in range(2)]
    lines = outputs([start(WORKER), *workers])
    return [json.loads(of_process[-1]) for of_process in lines]


@pytest.mark.ci
@pytest.mark.skipif(BACKEND != "jax", reason="On TensorFlow a replica has its own parts.")
def test_each_device_works_on_its_share_of_a_part():
    """No rows are brought together, as they would be for a part that one device holds."""
    assert json.loads(outputs([start(SCRIPT.with_name("parts_on_devices.py"))])[0][-1]) == [
        "all-reduce"
    ]


@pytest.mark.ci
@pytest.mark.skipif(BACKEND != "tensorflow", reason="Elsewhere a model's own fit does it.")
class TestFitOfSeveralWorkers:
    def test_as_one_device(self, reports):
        one, *several = reports
        for found in several:
            assert found["told"] == one["told"] == [9, 3]
            for a, b in zip(one["weights"], found["weights"], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
            assert found["history"].keys() == one["history"].keys()
            for name, values in one["history"].items():
                assert found["history"][name] == pytest.approx(values, rel=1e-4), name

    def test_errors(self, reports):
        for found in reports[1:]:
            kind, labels = found["errors"]
            assert "Received: tuple. Pass tf.data.Dataset.from_tensor_slices" in kind
            assert "num_classes=3" in labels


def printed(lines):
    """What the example says, by the first word of its lines."""
    return dict(line.split(maxsplit=1) for line in lines if not line.startswith("[Gloo]"))


@pytest.fixture(scope="module")
def one_device():
    return printed(outputs([start(EXAMPLE, "--quick")])[0])


@pytest.mark.ci
class TestExample:
    def test_several_devices(self, one_device):
        found = printed(outputs([start(EXAMPLE, "--quick", "--devices", 2)])[0])
        assert ":1; batches of 128" in found["ran"]
        for line in ("accuracy", "penalty", "weights"):
            assert found[line] == one_device[line]

    def test_two_processes(self, one_device):
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        several = ["--quick", "--addresses", *addresses]
        lines = outputs([start(EXAMPLE, *several, "--process", i) for i in range(2)])
        found = printed(lines[0])
        assert "of 2 processes; batches of 128" in found["ran"]
        for line in ("accuracy", "penalty", "weights"):
            assert found[line] == one_device[line]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--process", 1], "expected 0 to 0, by the 0 of --addresses"),
            (["--process", 2, "--addresses", "a:1", "b:1"], "expected 0 to 1"),
            (["--devices", 3], "does not split evenly"),
        ],
    )
    def test_errors(self, arguments, message):
        process = start(EXAMPLE, *arguments)
        _, errors = process.communicate()
        assert process.returncode == 2
        assert message in errors
