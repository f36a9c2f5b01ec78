"""Graphs of the examples and the networks on them, against dense matrices."""

import os
import pathlib

import keras
import numpy as np
import pytest

pytest.importorskip("pandas", reason="the examples need the extra examples")
pytest.importorskip("sklearn", reason="the examples need the extra examples")

import graph_data
import graph_networks
from compare_spaces import ACCURACY
from graph_data import Graph, Sparse


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


def dense(matrix):
    result = np.zeros(matrix.shape)
    result[matrix.rows, matrix.columns] = matrix.values
    return result


@pytest.fixture(scope="module")
def graph():
    """Seven nodes, five words; the last node cites nothing."""
    words = np.random.default_rng(0).random((7, 5)) * (np.arange(35).reshape(7, 5) % 3 > 0)
    rows, columns = np.nonzero(words)
    edges = np.array([[0, 1], [1, 2], [2, 0], [3, 4], [2, 3], [4, 5]])
    return graph_data.checked(
        Graph(
            words=Sparse(rows, columns, words[rows, columns], words.shape),
            edges=edges,
            labels=np.array([0, 1, 0, 1, 1, 0, -1]),
            train=np.array([0, 1]),
            validation=np.array([2, 3]),
            test=np.array([4, 5]),
        )
    )


class TestAdjacency:
    pytestmark = pytest.mark.once

    def test_of_a_path_and_a_lone_node(self, graph):
        """Degrees with loops: 2, 3, 2, 1."""
        path = graph._replace(edges=np.array([[0, 1], [2, 1]]), labels=np.zeros(4, int))
        a, b = 1 / 2, 1 / np.sqrt(6)
        expected = [[a, b, 0, 0], [b, 1 / 3, b, 0], [0, b, a, 0], [0, 0, 0, 1]]
        found = graph_networks.adjacency(path, normalize=True)
        np.testing.assert_allclose(dense(found), expected, atol=1e-7)
        found = graph_networks.adjacency(path, normalize=False)
        np.testing.assert_array_equal(dense(found), np.array(expected) > 0)

    def test_direction_repetition_and_loops_do_not_count(self, graph):
        again = np.concatenate([graph.edges, graph.edges[:, ::-1], [[3, 3], [6, 6]]])
        for normalize in (True, False):
            one, other = (
                graph_networks.adjacency(g, normalize=normalize)
                for g in (graph, graph._replace(edges=again))
            )
            np.testing.assert_array_equal(dense(one), dense(other))
            assert len(one.rows) == len(other.rows)


def gcn(graph, weights, activation):
    """Kipf and Welling's, with dense matrices, up to the last product with the adjacency."""
    step, x = dense(graph_networks.adjacency(graph, normalize=True)), dense(graph.words)
    for kernel in weights:
        x = activation(step @ x @ kernel)
    return step @ x


def gin(graph, weights, activation):
    """Xu et al.'s with epsilon 0: a perceptron of two layers on the sum over node and neighbours.

    The statistics of the normalisation are those it starts with.
    """
    step, x = dense(graph_networks.adjacency(graph, normalize=False)), dense(graph.words)
    for first, second, bias in zip(weights[::3], weights[1::3], weights[2::3], strict=True):
        x = activation(activation(step @ x @ first / np.sqrt(1 + 1e-3)) @ second + bias)
    return x


def tanh(x):
    return np.tanh(x)


def relu(x):
    return np.maximum(x, 0)


class TestNetworks:
    @pytest.mark.parametrize("activation", [relu, tanh])
    @pytest.mark.parametrize("depth", [2, 3])
    @pytest.mark.parametrize("reference", [gcn, gin])
    def test_agrees_with_dense_matrices(self, graph, reference, depth, activation):
        build = getattr(graph_networks, reference.__name__)
        model = build(graph, 4, depth=depth, activation=activation.__name__)
        nodes = np.array([5, 0, 6, 0])
        kernels = [numbers(w) for w in model.trainable_weights if "norm" not in w.path]
        assert len(kernels) == {gcn: depth - 1, gin: 3 * depth}[reference]
        expected = reference(graph, kernels, activation)
        np.testing.assert_allclose(numbers(model(nodes)), expected[nodes], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("build", [graph_networks.gcn, graph_networks.gin])
    def test_follows_its_nodes(self, graph, build):
        """Numbered anew, the same nodes have the same representations."""
        place = np.random.default_rng(1).permutation(7)
        words = graph.words._replace(rows=place[graph.words.rows])
        other = build(graph._replace(words=words, edges=place[graph.edges]), 4)
        model = build(graph, 4)
        other.set_weights(model.get_weights())
        found = numbers(other(place))
        np.testing.assert_allclose(found, numbers(model(np.arange(7))), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("build", [graph_networks.gcn, graph_networks.gin])
    def test_drops_words_in_training_alone(self, graph, build):
        model, nodes = build(graph, 4, dropout=0.5), np.arange(7)
        trained = numbers(model(nodes, training=True))
        assert np.abs(trained - numbers(model(nodes, training=True))).max() > 1e-3
        np.testing.assert_array_equal(numbers(model(nodes)), numbers(model(nodes)))

    def test_files_hold_the_graph(self, graph, tmp_path):
        model = graph_networks.gin(graph, 4)
        model.save(tmp_path / "gin.keras")
        loaded = keras.saving.load_model(tmp_path / "gin.keras")
        nodes = np.arange(7)
        np.testing.assert_allclose(numbers(loaded(nodes)), numbers(model(nodes)), rtol=1e-6)

    def test_the_first_layer_decays(self, graph):
        model = graph_networks.gcn(graph, 4)
        expected = 5e-4 * np.sum(numbers(model.trainable_weights[0]) ** 2)
        assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.ci
    def test_learns_from_few_labels(self):
        graph = graph_data.load(arguments())
        assert learnt(graph, graph_networks.gcn, 60) > 0.7


def learnt(graph, build, steps):
    """Accuracy on the test nodes."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([build(graph, 16), keras.layers.Dense(graph.classes)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    for _ in range(steps):
        model.train_on_batch(graph.train, graph.labels[graph.train])
    classes = numbers(model(graph.test)).argmax(axis=1)
    return np.mean(classes == graph.labels[graph.test])


def arguments(data="digits", data_dir=None):
    import citation_graphs

    return citation_graphs.parse(["--data", data, *(["--data-dir", data_dir] if data_dir else [])])


class TestData:
    pytestmark = pytest.mark.once

    def test_digits(self):
        graph = graph_data.load(arguments())
        assert len(graph.labels) == 1797
        assert np.bincount(graph.labels[graph.train]).tolist() == [graph_data.FEW] * 10
        alike = graph.labels[graph.edges[:, 0]] == graph.labels[graph.edges[:, 1]]
        assert 0.9 < alike.mean() < 1
        degrees = np.bincount(graph.edges.flatten())
        assert degrees.min() >= graph_data.NEIGHBOURS
        np.testing.assert_allclose(dense(graph.words).sum(axis=1), 1, rtol=1e-6)
        used = [*graph.train, *graph.validation, *graph.test]
        assert len(set(used)) == len(used)
        assert not set(graph.others) & {*graph.validation, *graph.test}
        assert set(graph.train) < set(graph.others)

    def test_a_file_holds_a_graph(self, graph, tmp_path, monkeypatch):
        write(tmp_path, graph)
        for given in (str(tmp_path), None):
            monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
            read = graph_data.read("cora", given)
            for mine, theirs in zip(
                (*graph.words, *graph[1:]), (*read.words, *read[1:]), strict=True
            ):
                np.testing.assert_array_equal(mine, theirs)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ValueError, match=r"`data_dir`.*cora\.npz.*graph_data\.py"):
            graph_data.read("cora", tmp_path)

    def test_a_missing_array_is_named(self, graph, tmp_path):
        write(tmp_path, graph, without="edges")
        with pytest.raises(ValueError, match=r"without \['edges'\]"):
            graph_data.read("cora", tmp_path)

    def test_an_unknown_graph_says_which_there_are(self):
        with pytest.raises(ValueError, match=r"`data`.*'digits', 'cora', 'citeseer'"):
            graph_data.load(arguments("mnist"))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"edges": [[0, 7]]}, "`edges`.*nodes from 0 to 6.*the node 7"),
            ({"edges": [[0, -1]]}, "`edges`.*the node -1"),
            ({"edges": [0, 1, 2]}, r"`edges`.*pairs.*\(3,\)"),
            ({"edges": [[0.0, 1.0]]}, "`edges`.*integers.*float64"),
            ({"labels": [0, 1, 0]}, r"`labels`.*each of the 7 nodes.*\(3,\)"),
            ({"labels": np.zeros(7)}, "`labels`.*integer.*float64"),
            ({"train": [6]}, "`train`.*class is known"),
            ({"test": [9]}, "`test`.*nodes from 0 to 6.*the node 9"),
            ({"test": [2, 5]}, "`train`.*twice"),
            ({"test": []}, "`test`.*integers"),
        ],
    )
    def test_what_is_no_graph_is_refused(self, graph, changed, message):
        changed = {name: np.array(value) for name, value in changed.items()}
        with pytest.raises(ValueError, match=message):
            graph_data.checked(graph._replace(**changed))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"rows": [7]}, "`words`.*nodes from 0 to 6.*the node 7"),
            ({"columns": [5]}, "`words`.*words from 0 to 4.*the word 5"),
            ({"values": [np.nan]}, "`words`.*finite"),
            ({"values": [1.0, 2.0]}, "`words`.*1, 1 and 2 of them"),
            ({"shape": (7,)}, "`shape`"),
        ],
    )
    def test_what_are_no_words_is_refused(self, graph, changed, message):
        good = {"rows": [0], "columns": [0], "values": [1.0]}
        words = graph.words._replace(**{k: np.array(v) for k, v in good.items()})
        assert graph_data.checked(graph._replace(words=words))
        with pytest.raises(ValueError, match=message):
            graph_data.checked(graph._replace(words=words._replace(**changed)))


def write(folder, graph, without=None):
    words = {
        f"feature_{name}": getattr(graph.words, name) for name in ("rows", "columns", "values")
    }
    arrays = {**words, "shape": graph.words.shape, **graph._asdict()}
    arrays.pop("words")
    arrays.pop(without, None)
    np.savez(folder / "cora.npz", **arrays)


@pytest.mark.ci
@pytest.mark.once
def test_cora():
    """Published for this network: 81.5 %."""
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "."))
    for place in (folder, folder.parent):
        if (place / "cora.npz").exists():
            break
    else:
        pytest.skip("cora.npz is not in TFDS_DATA_DIR, nor beside it")
    graph = graph_data.load(arguments("cora", str(place)))
    assert (len(graph.labels), len(graph.edges), graph.classes) == (2708, 5278, 7)
    assert learnt(graph, graph_networks.gcn, 100) > 0.77


@pytest.mark.once
class TestCorrelations:
    def test_by_hand(self):
        """Each run at its best step on validation; the reference's run is left out."""
        import citation_graphs as example

        runs = {  # validation accuracy, test accuracy, similarity
            "GCN 2 x 8, relu, dropout 0, Adam 0.01": ([0.7, 0.9], [0.5, 0.6], [0.5, 1.0]),
            "GCN 2 x 8, relu, dropout 0.5, Adam 0.01": ([0.7, 0.8], [0.9, 0.8], [0.1, 0.9]),
            "GCN 3 x 8, relu, dropout 0, SGD 0.3": ([0.4, 0.3], [0.4, 0.9], [0.2, 0.9]),
            "GCN 4 x 8, relu, dropout 0, SGD 0.3": ([0.5, 0.4], [0.3, 0.1], [0.4, 0.0]),
            "GCN 2 x 8, tanh, dropout 0, SGD 0.3": ([0.5, 0.6], [0.1, 0.5], [0.2, 0.9]),
            "GIN 2 x 8, relu, dropout 0, SGD 0.3": ([0.3, 0.2], [0.9, 0.1], [0.0, 0.5]),
        }
        rows = [
            {"variant": variant, "metric": metric, "value": value, "epoch": step}
            for variant, columns in runs.items()
            for metric, values in zip(
                (ACCURACY, example.TEST, example.RELATIVE), columns, strict=True
            )
            for step, value in enumerate(values)
        ]
        found = {row["metric"]: row["value"] for row in example.correlations(rows)}
        best = np.array([[0.8, 0.9], [0.4, 0.2], [0.3, 0.4], [0.5, 0.9], [0.9, 0.0]])
        expected = {
            example.OVER_RUNS: np.corrcoef(best.T)[0, 1],
            example.SAME_NETWORK: np.corrcoef(best[:4].T)[0, 1],
            example.ALIKE: np.corrcoef(best[:3].T)[0, 1],
        }
        assert found == pytest.approx(expected), "two steps are too few for r"

    def test_over_the_steps_of_runs_that_have_learnt(self):
        import citation_graphs as example

        columns = {
            "a": ([0.4, 0.6, 0.5], [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]),  # r = 1
            "b": ([0.4, 0.6, 0.5], [0.1, 0.2, 0.1], [3.0, 3.0, 3.0]),  # undefined
            "c": ([0.4, 0.4, 0.5], [0.1, 0.2, 0.3], [3.0, 2.0, 1.0]),  # has not learnt
            "d": ([0.4, 0.6, 0.5], [0.3, 0.2, 0.1], [1.0, 2.0, 3.0]),  # r = -1
            "e": ([0.4, 0.6, 0.5], [0.3, 0.2, 0.1], [0.3, 0.2, 0.1]),  # r = 1
        }
        index, names = [(run, step) for run in columns for step in range(3)], ["variant", "epoch"]
        pandas = example.common.pd
        table = pandas.DataFrame(
            np.concatenate([np.transpose(values) for values in columns.values()]),
            index=pandas.MultiIndex.from_tuples(index, names=names),
            columns=[ACCURACY, example.TEST, example.RELATIVE],
        )
        assert example.over_steps(table)[example.RELATIVE] == pytest.approx(1 / 3)


def test_means_over_pairs():
    import citation_graphs as example

    names = example.names(example.parse([]))
    percent = np.arange(16.0).reshape(4, 4)
    found = example.stitching_rows(names, "s", percent)
    found = {row["metric"]: row["value"] for row in found if row["variant"] == "s"}
    assert names == ["GCN 1", "GCN 2", "GIN 1", "GIN 2"]
    assert [found[f"{name}, own head"] for name in names] == [0, 5, 10, 15]
    assert found["other seed"] == np.mean([1, 4, 11, 14])
    assert found["GCN → GIN"] == np.mean([2, 3, 6, 7]), "encoders are rows"
    assert found["GIN → GCN"] == np.mean([8, 9, 12, 13])
    assert found["pair: GIN 1 → GCN 2"] == 9
    alone = example.stitching_rows(names[::2], "s", percent[::2, ::2])
    assert "other seed" not in {row["metric"] for row in alone}


def test_a_grid_is_drawn_from_all_combinations():
    import citation_graphs as example

    args = example.parse(["--runs", "30"])
    runs = example.grid(args, 0)
    assert len(set(runs)) == 30
    assert set(runs) < set(example.combinations(args))
    assert {run.network for run in runs} == set(example.NETWORKS)
    assert runs != example.grid(args, 1)
    args.runs = 20
    assert example.grid(args, 0) == runs[:20]
    assert all(example.kind(str(run)) == (run.network, run.activation) for run in runs)
    assert len({str(run) for run in runs}) == 30


@pytest.mark.parametrize(
    "options", [["--augment", "flip"], ["--batch-size", "8"], ["--epochs", "9"]]
)
def test_options_that_would_do_nothing_are_refused(options, capsys):
    import citation_graphs

    with pytest.raises(SystemExit):
        citation_graphs.parse(options)
    assert options[0] in capsys.readouterr().err
