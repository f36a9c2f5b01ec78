"""`GeometryMonitor` and `GraphSnapshot`: values, where they go, and an undisturbed training."""

import contextlib
import csv
import gc
import importlib.util
import sys
import types
import warnings
import weakref

import keras
import numpy as np
import pytest
import reference
from autodiff import BACKEND, to_numpy
from keras import layers

import keras_lgg as lgg
from keras_lgg import losses
from keras_lgg.callbacks import AtomicBackup, GeometryMonitor, GraphSnapshot, measures

RNG = np.random.default_rng(0)
N = 24
X, Y = RNG.normal(size=(N, 4)).astype("float32"), np.arange(N) % 3
PROBE, LABELS = RNG.normal(size=(12, 4)).astype("float32"), np.arange(12) % 3
QUANTITIES = ["label_smoothness", "graph_change", "effective_rank", "isolated_nodes", "cka_first"]


def network(width=6, name=None):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(width, "relu", name="h1"),
            layers.Dense(width, name="h2"),
            layers.Dense(3, "softmax", name="head"),
        ],
        name=name,
    )


def smooth(**kwargs):
    loss = losses.SmoothnessVariation(num_classes=3)
    return lgg.Penalty(loss, ["h1", "h2"], **{"weight": 0.01, **kwargs})


def geometry_model():
    return lgg.GeometryModel(network(), [smooth()])


def distiller(taps=(("h1", "h2"),)):
    teacher, student = network(8, "teacher"), network(5, "student")
    penalty = lgg.Penalty(losses.GraphDistillation(), list(taps), weight=0.01)
    return lgg.Distiller(teacher, student, [penalty])


def fit(model, *callbacks, epochs=2, rate=0.1, **kwargs):
    if not model.compiled:
        model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    options = {"batch_size": 8, "verbose": 0, "shuffle": False, **kwargs}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options).history


def watch(model, callback, epochs=1, *, first=0):
    """The logs of the last epoch where nothing trains."""
    callback.set_model(model)
    callback.on_train_begin()
    for epoch in range(first, epochs):
        callback.on_epoch_begin(epoch)
        logs = {}
        callback.on_epoch_end(epoch, logs)
    callback.on_train_end()
    return logs


def seen(model, *names, x=PROBE):
    """What layers of a Sequential model see, by NumPy alone."""
    found = {}
    for layer in model.layers:
        x = x @ to_numpy(layer.kernel).astype("float64") + to_numpy(layer.bias)
        if layer.name == "h1":
            x = np.maximum(x, 0)
        found[layer.name] = x
    return [found[name] for name in names]


def effective_rank(x):
    """From the eigenvalues of the Gram matrix of the features."""
    x = x.astype("float64")
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(x.T @ x), 0))
    shares = [value / sum(values) for value in values]
    return np.exp(-sum(share * np.log(share) for share in shares if share > 0))


def isolated_nodes(x, k=None):
    graph = reference.graph(x, k=k)
    return sum(all(graph[i, j] == 0 for j in range(len(x))) for i in range(len(x))) / len(x)


def cka(a, b):
    """By the kernels, of all pairs."""
    centre = np.eye(len(a)) - 1 / len(a)
    kernels = [centre @ (x @ x.T) @ centre for x in (a, b)]
    (aa, ab), (_, bb) = [[np.trace(p @ q) for q in kernels] for p in kernels]
    return ab / np.sqrt(aa * bb)


def expected(h1, h2, k=None, labels=LABELS):
    change = np.sum((reference.graph(h2, k=k) - reference.graph(h1, k=k)) ** 2)
    return {
        "h1/label_smoothness": reference.label_smoothness(h1, labels, k=k, relative=True),
        "h1/graph_change": change,
        "h1/effective_rank": effective_rank(h1),
        "h1/isolated_nodes": isolated_nodes(h1, k),
        "h2/label_smoothness": reference.label_smoothness(h2, labels, k=k, relative=True),
        "h2/effective_rank": effective_rank(h2),
        "h2/isolated_nodes": isolated_nodes(h2, k),
    }


def last(history, *, ours=True):
    return {name: values[-1] for name, values in history.items() if ("/" in name) == ours}


def assert_close(found, wanted, **kwargs):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, err_msg=name, **kwargs)


class TestValues:
    def positive(self, rank=None):
        """Layers with several ranks and similarities that are all positive, and isolated ones."""
        h1 = RNG.random((10, 5))
        h2 = RNG.random((10, rank or 3)) @ RNG.random((rank or 3, 7))
        h1[[2, 5]] = 0
        return h1.astype("float32"), h2.astype("float32")

    @pytest.mark.parametrize("k", [None, 2])
    def test_by_loops(self, k):
        h1, h2 = self.positive()
        labels = np.arange(10) % 3
        found = {
            "h1/label_smoothness": measures.label_smoothness(h1, labels, 3, k=k),
            "h1/graph_change": measures.graph_change(h1, h2, k=k),
            "h1/effective_rank": measures.effective_rank(h1),
            "h1/isolated_nodes": measures.isolated_nodes(h1, k=k),
            "h2/label_smoothness": measures.label_smoothness(h2, labels, 3, k=k),
            "h2/effective_rank": measures.effective_rank(h2),
            "h2/isolated_nodes": measures.isolated_nodes(h2, k=k),
        }
        assert_close(found, expected(h1, h2, k, labels), atol=1e-6)
        assert found["h1/isolated_nodes"] == 0.2
        np.testing.assert_allclose(measures.alignment(h1, h2), cka(h1, h2), rtol=1e-5)

    def test_effective_rank_by_hand(self):
        values = np.array([4.0, 2.0, 1.0, 1.0])  # entropy 1.75 bits
        x = np.linalg.qr(RNG.normal(size=(9, 4)))[0] * values
        for each in (x, 1e-30 * x, x @ np.linalg.qr(RNG.normal(size=(4, 4)))[0], x.T):
            np.testing.assert_allclose(measures.effective_rank(each), 2**1.75, rtol=1e-6)
        assert measures.effective_rank(np.zeros((4, 3))) == 0

    def test_isolated_nodes_of_signed_similarities(self):
        """Three rows along an axis, and one against it, whose similarities sum to -3."""
        x = np.array([[1.0], [2.0], [1.0], [-1.0]])
        assert measures.isolated_nodes(x) == 0.25 == isolated_nodes(x)

    def test_isolated_nodes_among_the_nearest(self):
        """The second row is isolated; it alone is near the first, which else has negative edges."""
        angles = np.deg2rad([0, 60, -92, -92])
        x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        assert measures.isolated_nodes(x) == 0.25 == isolated_nodes(x)
        assert measures.isolated_nodes(x, k=1) == 0.5 == isolated_nodes(x, k=1)

    def test_isolated_nodes_of_many_samples(self):
        """In blocks of rows."""
        x = RNG.normal(size=(2100, 3)).astype("float32")
        x[::50] = 0
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
        degrees = np.sum(unit @ unit.T, axis=1) - np.sum(unit * unit, axis=1)
        isolated = np.mean(degrees <= 0)
        assert isolated > 0.2
        np.testing.assert_allclose(measures.isolated_nodes(x), isolated, atol=2e-3)

    def test_nothing_to_measure(self):
        x, bad = RNG.random((6, 3)).astype("float32"), np.full((6, 3), np.nan, "float32")
        labels = np.arange(6) % 2
        found = [
            measures.label_smoothness(bad, labels, 2),
            measures.graph_change(x, bad),
            measures.graph_change(bad, x),
            measures.effective_rank(bad),
            measures.isolated_nodes(bad, k=2),
            measures.alignment(x, bad),
            measures.alignment(bad, x),
            measures.alignment(x, np.ones((6, 2))),
            measures.alignment(np.ones((6, 2)), x),
        ]
        assert np.isnan(found).all()


@pytest.mark.parametrize("k", [None, 3])
def test_the_values_of_a_training(k):
    model = geometry_model()
    start = seen(model.base, "h1", "h2")
    history = fit(model, GeometryMonitor(PROBE, LABELS, k=k))
    end = seen(model.base, "h1", "h2")
    wanted = expected(*end, k)
    found = last(history)
    firsts = [found.pop("h1/cka_first"), found.pop("h2/cka_first")]
    assert_close(found, wanted, atol=1e-5)
    np.testing.assert_allclose(firsts, [cka(a, b) for a, b in zip(start, end, strict=True)], 1e-4)
    assert max(firsts) < 0.9999
    assert [len(values) for values in history.values()] == [2] * len(history)
    assert history["h1/effective_rank"][0] != history["h1/effective_rank"][1]


@pytest.mark.parametrize(
    "labels",
    [LABELS[:, None], 10 * LABELS - 7, np.eye(3, dtype="float32")[LABELS], LABELS.astype(float)],
)
def test_forms_of_labels(labels):
    model = geometry_model()
    found = watch(model, GeometryMonitor(PROBE, labels))
    (h1,) = seen(model.base, "h1")
    np.testing.assert_allclose(
        found["h1/label_smoothness"],
        reference.label_smoothness(h1, LABELS, relative=True),
        rtol=1e-4,
    )


def test_without_labels_and_without_penalties():
    model = network()
    found = watch(model, GeometryMonitor(PROBE, taps=["h2", "head"]))
    assert list(found) == [
        *[f"h2/{name}" for name in QUANTITIES[1:]],
        *[f"head/{name}" for name in QUANTITIES[2:]],
    ]
    h2, head = seen(model, "h2", "head")
    logits = np.exp(head - head.max(axis=1, keepdims=True))
    head = logits / logits.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["head/effective_rank"], effective_rank(head), rtol=1e-4)
    change = np.sum((reference.graph(h2) - reference.graph(head)) ** 2)
    np.testing.assert_allclose(found["h2/graph_change"], change, rtol=1e-3)


class TestTeacher:
    @pytest.mark.parametrize("taps", [None, [("h1", "h2")]])
    def test_of_a_distiller(self, taps):
        model = distiller()
        found = watch(model, GeometryMonitor(PROBE, LABELS, taps=taps))
        assert list(found) == [
            f"h2/{name}"
            for name in ("label_smoothness", "effective_rank", "isolated_nodes", "cka_teacher")
        ]
        (h1,), (h2,) = seen(model.teacher, "h1"), seen(model.student, "h2")
        np.testing.assert_allclose(found["h2/cka_teacher"], cka(h1, h2), rtol=1e-4)

    def test_of_any_model(self):
        """A plain name is that of both; the layers of the penalties are the default."""
        model, teacher = geometry_model(), network(9)
        found = watch(model, GeometryMonitor(PROBE, teacher=teacher))
        for name in ("h1", "h2"):
            (a,), (b,) = seen(teacher, name), seen(model.base, name)
            np.testing.assert_allclose(found[f"{name}/cka_teacher"], cka(a, b), rtol=1e-4)

    def test_the_first_of_several_pairs(self):
        model = distiller([("h1", "h2"), ("h2", "h1"), ("h2", "h2")])
        found = watch(model, GeometryMonitor(PROBE))
        names = list(dict.fromkeys(name.split("/")[0] for name in found))
        assert names == ["h2", "h1"]
        (theirs,), (ours,) = seen(model.teacher, "h1"), seen(model.student, "h2")
        np.testing.assert_allclose(found["h2/cka_teacher"], cka(theirs, ours), rtol=1e-4)

    def test_outputs(self):
        penalty = lgg.Penalty(keras.distillation.LogitsDistillation(temperature=2.0))
        teacher = network(8, "teacher")
        model = lgg.Distiller(teacher, network(), [penalty])
        found = watch(model, GeometryMonitor(PROBE))
        outputs = [to_numpy(m(PROBE)).astype("float64") for m in (teacher, model.student)]
        np.testing.assert_allclose(found["output/cka_teacher"], cka(*outputs), rtol=1e-4)

    def test_a_distiller_without_one(self):
        model = distiller()
        offline = lgg.Distiller(None, model.student, model.penalties)
        found = watch(offline, GeometryMonitor(PROBE))
        np.testing.assert_allclose(found["h2/cka_first"], 1)


class Noise(layers.Layer):
    """Adds noise in inference, too, and counts its calls."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return x + 0.1 * keras.random.normal(keras.ops.shape(x), seed=self.seeds)


@pytest.mark.parametrize("make", ["geometry_model", "distiller"])
def test_the_training_is_not_disturbed(make, plots, tmp_path):
    def base(width):
        return keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(width, "relu", name="h1"),
                layers.BatchNormalization(),
                layers.Dropout(0.3, seed=5),
                Noise(),
                layers.Dense(width, "relu", name="h2"),
                layers.Dropout(0.3),
                layers.Dense(3, "softmax"),
            ]
        )

    def train(*callbacks):
        keras.utils.set_random_seed(2)
        if make == "geometry_model":
            model = lgg.GeometryModel(base(6), [smooth()])
        else:
            penalty = lgg.Penalty(losses.GraphDistillation(), [("h1", "h2")])
            model = lgg.Distiller(base(8), base(6), [penalty])
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        history = fit(model, *callbacks, validation_data=(PROBE, LABELS), shuffle=True)
        variables = [*model.variables, *getattr(model, "teacher", model).variables]
        return last(history, ours=False), [to_numpy(v) for v in variables]

    history, variables = train()
    monitored, found = train(
        GeometryMonitor(PROBE, LABELS, batch_size=5, csv=tmp_path / "a.csv"),
        GraphSnapshot(PROBE, LABELS, folder=tmp_path),
    )
    assert monitored == history
    for a, b in zip(found, variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_in_batches():
    sizes = []

    class Sizes(layers.Layer):
        def call(self, x):
            sizes.append(x.shape[0])
            return x

    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3, "softmax")(Sizes(name="sizes")(inputs)))
    monitor = GeometryMonitor(X, taps="sizes", batch_size=10)
    monitor.set_model(model)
    monitor.on_train_begin()
    sizes.clear()
    monitor.on_epoch_begin(0)
    assert sizes == [10, 10, 4]
    logs = {}
    monitor.on_epoch_end(0, logs)
    np.testing.assert_allclose(logs["sizes/effective_rank"], effective_rank(X), rtol=1e-5)


def test_structured_inputs_nested_taps_and_half_precision():
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, layers.Dense(5, name="deep")(inner_input), name="inner")
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    added = inner(inputs["a"]) + layers.Dense(5, dtype="mixed_bfloat16")(inputs["b"])
    outputs = layers.Dense(3, name="half", dtype="mixed_bfloat16")(added)
    model = keras.Model(inputs, outputs)
    probe = {"a": PROBE, "b": PROBE[::-1].astype("float64")}
    monitor = GeometryMonitor(probe, LABELS, taps=["inner/deep", "half"])
    found = watch(model, monitor)
    dense = inner.get_layer("deep")
    deep = PROBE @ to_numpy(dense.kernel) + to_numpy(dense.bias)
    np.testing.assert_allclose(found["inner/deep/effective_rank"], effective_rank(deep), rtol=1e-4)
    assert np.isfinite(list(found.values())).all()


class TestLogs:
    def rows(self, path):
        with open(path, newline="") as file:
            return list(csv.DictReader(file))

    def test_callbacks_that_come_later_see_the_values(self, tmp_path):
        stop = keras.callbacks.EarlyStopping("h1/effective_rank", mode="max", min_delta=100)
        logger = keras.callbacks.CSVLogger(str(tmp_path / "keras.csv"))
        history = fit(geometry_model(), GeometryMonitor(PROBE), stop, logger, epochs=5)
        assert len(history["loss"]) == 2
        found = [float(row["h2/cka_first"]) for row in self.rows(tmp_path / "keras.csv")]
        assert found == history["h2/cka_first"]

    def test_csv(self, tmp_path):
        model = geometry_model()
        wanted = expected(*seen(model.base, "h1", "h2"))
        path = tmp_path / "new" / "geometry.csv"
        history = fit(model, GeometryMonitor(PROBE, LABELS, csv=path))
        before, *after = self.rows(path)
        names = [*(f"h1/{q}" for q in QUANTITIES)]
        names += [f"h2/{q}" for q in QUANTITIES if q != "graph_change"]
        assert list(before) == ["epoch", *names]
        assert [row["epoch"] for row in (before, *after)] == ["0", "1", "2"]
        for name in names:
            assert [float(row[name]) for row in after] == history[name]
        before = {name: float(value) for name, value in before.items()}
        assert before.pop("h1/cka_first") == pytest.approx(1)
        assert before.pop("h2/cka_first") == pytest.approx(1)
        assert before.pop("epoch") == 0
        assert_close(before, wanted, atol=1e-5)
        fit(model, GeometryMonitor(PROBE, LABELS, csv=path), epochs=1)  # anew
        assert [row["epoch"] for row in self.rows(path)] == ["0", "1"]
        assert [p.name for p in path.parent.iterdir()] == ["geometry.csv"]

    def test_tensorboard(self, tmp_path):
        keras_logs = keras.callbacks.TensorBoard(tmp_path / "keras", update_freq=7)
        monitor = GeometryMonitor(PROBE, LABELS, log_dir=tmp_path, csv=tmp_path / "a.csv")
        fit(geometry_model(), keras_logs, monitor)
        events = read_events(tmp_path)
        rows = self.rows(tmp_path / "a.csv")
        assert sorted(events.Tags()["tensors"]) == sorted(set(rows[0]) - {"epoch"})
        for name in events.Tags()["tensors"]:
            found = events.Tensors(name)
            assert [event.step for event in found] == [0, 1, 2]
            np.testing.assert_allclose(
                [tensor_value(event) for event in found],
                [float(row[name]) for row in rows],
                rtol=1e-6,
            )

    def test_tensorboard_can_be_read_while_the_model_trains(self, tmp_path):
        monitor = GeometryMonitor(PROBE, taps="h1", log_dir=tmp_path)
        monitor.set_model(network())
        monitor.on_train_begin()
        monitor.on_epoch_begin(0)
        assert len(read_events(tmp_path).Tags()["tensors"]) == 3
        monitor.on_train_end()

    def test_tensorboard_is_missing(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        for callback in (GeometryMonitor, GraphSnapshot):
            message = r"'tensorboard' is missing.*pip install \"keras_lgg\[tensorboard\]\""
            with pytest.raises(ImportError, match=message):
                watch(geometry_model(), callback(PROBE, LABELS, log_dir=tmp_path))


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = folder.glob("events.out.tfevents.*")
    events = EventAccumulator(str(path), size_guidance={"tensors": 0})
    events.Reload()
    return events


def tensor_value(event):
    from tensorboard.util import tensor_util

    return tensor_util.make_ndarray(event.tensor_proto)


class TestResumed:
    class KilledError(Exception):
        pass

    def train(self, folder, teacher, *, kill=None):
        class Kill(keras.callbacks.Callback):
            def on_epoch_end(callback, epoch, logs=None):  # noqa: N805
                if epoch == kill:
                    raise self.KilledError

        keras.utils.set_random_seed(4)
        model = geometry_model()
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        monitor = GeometryMonitor(PROBE, LABELS, csv=folder / "geometry.csv", teacher=teacher)
        with contextlib.suppress(self.KilledError):
            fit(model, monitor, AtomicBackup(folder / "backup"), Kill(), epochs=4)

    def rows(self, folder):
        return (folder / "geometry.csv").read_text().splitlines()

    def test_with_a_teacher_as_if_it_had_not_stopped(self, tmp_path):
        whole, killed, teacher = tmp_path / "whole", tmp_path / "killed", network(7)
        self.train(whole, teacher)
        self.train(killed, teacher, kill=1)
        assert self.rows(killed) == self.rows(whole)[:4]
        self.train(killed, teacher)
        assert self.rows(killed) == self.rows(whole)
        assert len(self.rows(whole)) == 1 + 5

    @pytest.mark.parametrize("written", ["whole", "cut off", "missing", "ahead"])
    def test_the_row_that_a_kill_left(self, written, tmp_path):
        """Of the epoch from which a training goes on, or of the one that it must do again."""
        model = geometry_model()
        path = tmp_path / "geometry.csv"
        watch(model, GeometryMonitor(PROBE, LABELS, csv=path), epochs=3)
        lines = self.rows(tmp_path)
        kept = {
            "whole": lines[:4],
            "cut off": [*lines[:3], lines[3][:9]],
            "missing": lines[:3],
            "ahead": lines,
        }[written]
        path.write_text("".join(f"{line}\r\n" for line in kept))
        for layer in model.base.layers:  # so that new rows can be told from old ones
            layer.kernel.assign(2 * layer.kernel - 0.1)
        logs = watch(model, GeometryMonitor(PROBE, LABELS, csv=path), epochs=4, first=2)
        found = list(csv.DictReader(self.rows(tmp_path)))
        assert [row["epoch"] for row in found] == ["0", "1", "2", "3", "4"]
        new = [float(row["h1/effective_rank"]) == logs["h1/effective_rank"] for row in found]
        again = written in ("cut off", "missing")
        assert new == [False, False, again, True, True]
        # What the first epoch was like, only the rows from before know.
        assert "h1/cka_first" not in logs
        assert [row["h2/cka_first"] == "" for row in found] == new

    def test_a_number_that_was_cut_off_is_not_read_as_another_one(self, tmp_path):
        model, path = geometry_model(), tmp_path / "geometry.csv"
        watch(model, GeometryMonitor(PROBE, LABELS, csv=path), epochs=2)
        whole = path.read_bytes()
        for left in (1, 2, 5):  # of the end, the line end among it
            path.write_bytes(whole[:-left])
            watch(model, GeometryMonitor(PROBE, LABELS, csv=path), epochs=3, first=2)
            first, *again = csv.DictReader(self.rows(tmp_path))
            assert [row["epoch"] for row in (first, *again)] == ["0", "1", "2", "3"]
            assert [row["h2/cka_first"] == "" for row in again] == [False, True, True]

    @pytest.mark.parametrize(
        "harm",
        [
            lambda rows: [rows[0], rows[1].replace("0,", "x,", 1), *rows[2:]],
            lambda rows: [*rows[:2], rows[2].replace(".", "?", 1), *rows[3:]],
            lambda rows: [*rows[:2], f"{rows[2]},1.0", *rows[3:]],
            lambda rows: [*rows[:2], rows[2].rpartition(",")[0], *rows[3:]],
            lambda rows: [*rows[:2], rows[3], rows[2]],
        ],
        ids=["epoch", "number", "long", "short", "order"],
    )
    def test_a_file_that_was_changed(self, harm, tmp_path):
        path = tmp_path / "geometry.csv"
        watch(geometry_model(), GeometryMonitor(PROBE, csv=path), epochs=2)
        changed = "".join(f"{row}\r\n" for row in harm(self.rows(tmp_path))).encode()
        path.write_bytes(changed)
        message = r"geometry.csv' cannot be gone on with. Expected rows.*Received.*Mend or delete"
        with pytest.raises(ValueError, match=message):
            watch(geometry_model(), GeometryMonitor(PROBE, csv=path), epochs=3, first=2)
        assert path.read_bytes() == changed

    def test_a_kill_while_it_writes_leaves_the_rows_before(self, tmp_path, monkeypatch):
        path = tmp_path / "geometry.csv"
        watch(geometry_model(), GeometryMonitor(PROBE, csv=path), epochs=2)
        before = path.read_bytes()

        def kill(*args):
            raise self.KilledError

        monkeypatch.setattr("os.fsync", kill)
        with pytest.raises(self.KilledError):
            watch(geometry_model(), GeometryMonitor(PROBE, csv=path), epochs=3, first=2)
        assert path.read_bytes() == before

    def test_a_file_with_other_columns(self, tmp_path):
        path = tmp_path / "geometry.csv"
        watch(geometry_model(), GeometryMonitor(PROBE, csv=path))
        monitor = GeometryMonitor(PROBE, csv=path, taps="h2")
        with pytest.raises(ValueError, match=r"cannot be gone on with.*h2/effective_rank.*h1/"):
            watch(geometry_model(), monitor, epochs=3, first=1)


@contextlib.contextmanager
def user_warnings():
    """The texts of our own warnings; Keras's on PyTorch have warnings of NumPy inside."""
    texts = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield texts
    texts += [str(warning.message) for warning in found]


class TestCollapse:
    def model(self, kernel, bias, width=3):
        """One hidden layer with this kernel and bias."""
        inputs = keras.Input((4,))
        hidden = layers.Dense(width, name="hidden")
        model = keras.Model(inputs, layers.Dense(3)(hidden(inputs)))
        hidden.set_weights([np.full((4, width), kernel), np.full((width,), bias)])
        return model

    @pytest.mark.parametrize(
        ("kernel", "bias", "received"),
        [
            (0.0, 0.0, "a graph without edges: the similarities"),
            (0.0, 1.0, "an effective rank of 1. "),
            (np.nan, 0.0, "NaN or inf. "),
        ],
    )
    def test_warns_once(self, kernel, bias, received):
        model = self.model(kernel, bias)
        monitor = GeometryMonitor(PROBE, LABELS, taps="hidden")
        with user_warnings() as found:
            logs = watch(model, monitor, epochs=3)
        (message,) = found
        assert message.startswith("The layer 'hidden' has collapsed after epoch 1.")
        assert f"Received: {received}" in message
        assert np.isnan(logs["hidden/cka_first"])
        assert np.isnan(list(logs.values())).all() == np.isnan(kernel)
        with user_warnings() as found:  # in another fit, again
            watch(model, monitor)
        assert len(found) == 1

    def test_a_layer_of_one_unit_is_not_judged_by_its_rank(self):
        model = self.model(0.5, 10.0, width=1)
        logs = watch(model, GeometryMonitor(PROBE, taps="hidden"))
        np.testing.assert_allclose(logs["hidden/effective_rank"], 1)

    def test_the_rank_that_counts(self):
        with user_warnings() as found:
            watch(geometry_model(), GeometryMonitor(PROBE, min_rank=5.9))
        assert ["'h1'" in message for message in found] == [True, False]
        assert all("at least 5.9. Received: an effective rank of" in message for message in found)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"x": PROBE[:1]}, "`x`. Expected an array of at least 2 samples"),
            ({"x": 3.0}, "`x`"),
            ({"x": [PROBE, PROBE[:4]]}, r"`x`.*as many each.*\(12, 4\), \(4, 4\)"),
            ({"y": LABELS[:5]}, "`y` and `x` are of different batches"),
            ({"y": LABELS + 0.5}, "`y`. Expected whole numbers"),
            ({"k": 0}, "`k`"),
            ({"min_rank": -1}, "`min_rank`"),
            ({"batch_size": 0}, "`batch_size`"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            GeometryMonitor(**{"x": PROBE, **arguments})

    @pytest.mark.parametrize(
        ("taps", "message"),
        [
            (["h1", "h3"], r"Unknown tap 'h3'.*'h1', 'h2', 'head'"),
            ([("h1", "h2")], r"`taps`. Expected names of layers, in their order along the depth\."),
            ([], "`taps`"),
            ([3], "`taps`"),
        ],
    )
    def test_taps(self, taps, message):
        with pytest.raises(ValueError, match=message):
            watch(geometry_model(), GeometryMonitor(PROBE, taps=taps))

    @pytest.mark.parametrize(
        ("taps", "message"),
        [
            ([("h7", "h2")], "Unknown tap 'h7' in the model 'teacher'"),
            ([("h1", "h7")], "Unknown tap 'h7' in the model 'student'"),
            ([("h1", "h2", "h1")], r"`taps`.*or pairs of names \(teacher layer, layer\)"),
            ([("h1", 2)], "`taps`"),
        ],
    )
    def test_taps_with_a_teacher(self, taps, message):
        with pytest.raises(ValueError, match=message):
            watch(distiller(), GeometryMonitor(PROBE, taps=taps))

    def test_nothing_says_what_to_look_at(self):
        with pytest.raises(ValueError, match=r"does not say what to look at.*taps=\['block1'"):
            watch(network(), GeometryMonitor(PROBE))

    def test_several_outputs(self):
        class Two(keras.Model):
            def call(self, inputs):
                return inputs, 2 * inputs

        two = Two()
        two(np.ones((2, 4), "float32"))
        model = lgg.GeometryModel(two, [lgg.Penalty(lgg.losses.GraphSmoothness())])
        with pytest.raises(
            ValueError, match=r"cannot be looked at. Expected a single tensor.*2 of"
        ):
            watch(model, GeometryMonitor(PROBE))


@pytest.fixture
def plots(monkeypatch):
    """`keras_lgg.plots`; a stand-in with its signature in a tree that does not have it yet."""
    if importlib.util.find_spec("keras_lgg.plots") is None:
        from matplotlib.figure import Figure

        def layer_graphs(representations, labels, *, title=None, layout="spectral", k=3):
            assert {len(x) for x in representations.values()} == {len(labels)}
            figure = Figure((2.0 * len(representations), 2.0))
            for i, name in enumerate(representations):
                figure.add_subplot(1, len(representations), i + 1).set_title(name)
            figure.suptitle(title)
            return figure

        module = types.SimpleNamespace(layer_graphs=layer_graphs)
        monkeypatch.setitem(sys.modules, "keras_lgg.plots", module)
        monkeypatch.setattr(lgg, "plots", module, raising=False)
    from keras_lgg import plots

    return plots


class TestGraphSnapshot:
    @pytest.fixture
    def drawn(self, plots, monkeypatch):
        """The arguments and the figures of each picture."""
        calls = []
        draw = plots.layer_graphs

        def layer_graphs(representations, labels, **options):
            figure = draw(representations, labels, **options)
            calls.append((representations, labels, options, weakref.ref(figure)))
            return figure

        monkeypatch.setattr(plots, "layer_graphs", layer_graphs)
        return calls

    def test_what_is_drawn(self, drawn, tmp_path):
        model = geometry_model()
        start = seen(model.base, "h1", "h2")
        one_hot = np.eye(3)[LABELS]
        snapshot = GraphSnapshot(PROBE, one_hot, folder=tmp_path / "new", every=2, k=4)
        fit(model, snapshot, epochs=5, rate=0.05)
        names = [path.name for path in sorted((tmp_path / "new").iterdir())]
        assert names == ["epoch_0000.png", "epoch_0002.png", "epoch_0004.png"]
        assert [call[2] for call in drawn] == [{"title": f"epoch {e}", "k": 4} for e in (0, 2, 4)]
        for representations, labels, *_ in drawn:
            np.testing.assert_array_equal(labels, LABELS)
            assert list(representations) == ["h1", "h2"]
        for found, wanted in zip(drawn[0][0].values(), start, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        assert np.abs(drawn[1][0]["h1"] - drawn[0][0]["h1"]).max() > 1e-3

    def test_no_figure_is_left(self, drawn, tmp_path):
        from matplotlib import pyplot as plt

        before = plt.get_fignums()
        watch(geometry_model(), GraphSnapshot(PROBE, LABELS, folder=tmp_path), epochs=2)
        gc.collect()
        assert [figure() for *_, figure in drawn] == [None, None, None]
        assert plt.get_fignums() == before

    def test_tensorboard(self, plots, tmp_path):
        from matplotlib import image

        snapshot = GraphSnapshot(PROBE, LABELS, folder=tmp_path, log_dir=tmp_path)
        watch(geometry_model(), snapshot, epochs=2)
        found = read_events(tmp_path).Tensors("latent_geometry_graphs")
        assert [event.step for event in found] == [0, 1, 2]
        pixels = image.imread(tmp_path / "epoch_0002.png")
        width, height, png = tensor_value(found[2])
        assert (int(height), int(width)) == pixels.shape[:2]
        (tmp_path / "from_events.png").write_bytes(png)
        logged = image.imread(tmp_path / "from_events.png")
        np.testing.assert_array_equal(logged[..., :3], pixels[..., :3])

    def test_the_student_of_a_distiller(self, drawn, tmp_path):
        watch(distiller(), GraphSnapshot(PROBE, LABELS, log_dir=tmp_path))
        assert [list(call[0]) for call in drawn] == [["h2"], ["h2"]]

    def test_a_training_that_goes_on(self, plots, tmp_path):
        snapshot = GraphSnapshot(PROBE, LABELS, folder=tmp_path)
        watch(geometry_model(), snapshot, epochs=4, first=2)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch_0003.png", "epoch_0004.png"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"y": None}, "`y`. Expected class labels"),
            ({"y": LABELS[:5]}, "`y` and `x` are of different batches"),
            (
                {"folder": None},
                "The figures go nowhere. Expected `folder`, `log_dir`, or keep=True",
            ),
            ({"every": 0}, "`every`"),
            ({"every": 1.5}, "`every`"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            GraphSnapshot(**{"x": PROBE, "y": LABELS, "folder": "unused", **arguments})

    def test_unknown_taps(self, tmp_path):
        with pytest.raises(ValueError, match="Unknown tap 'h9'"):
            watch(geometry_model(), GraphSnapshot(PROBE, LABELS, taps=["h9"], folder=tmp_path))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow is there")
def test_tensorflow_is_not_needed_without_event_files(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert "h1/effective_rank" in watch(geometry_model(), GeometryMonitor(PROBE))
