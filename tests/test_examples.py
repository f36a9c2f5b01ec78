"""The examples on digits, end to end: do their tables make sense?"""

import json

import keras
import numpy as np
import pytest

pytest.importorskip("pandas", reason="the examples need the extra examples")
pytest.importorskip("sklearn", reason="the examples need the extra examples")

import common
import networks
from autodiff import BACKEND
from progress import Progress

import keras_lgg as lgg

# An example is Keras code that any backend runs; to run each on all would double the suite's time.
pytestmark = pytest.mark.ci
ON_TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="examples run on one backend")
ON_TORCH = pytest.mark.skipif(BACKEND != "torch", reason="examples run on one backend")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example with --quick and --record: its table, its page, what it printed."""

    def run(example, *options):
        monkeypatch.chdir(tmp_path)
        argv = ["--quick", "--output", "out", "--record", "page.md", *options]
        frame = example.main(argv)
        assert np.isfinite(frame["value"]).all()
        values = frame.set_index(["variant", "metric"])["value"]
        return values, (tmp_path / "page.md").read_text(), capsys.readouterr().out

    return run


def check_record(page, output, name, values, subject="digits"):
    """The page and the output show the numbers that were measured, and the command."""
    assert f"    python examples/{name}.py --quick" in page
    assert f"results_{name}_{subject}.png" in page
    for (variant, metric), value in values.items():
        assert variant in page
        assert metric in page
        assert f"{value:.1f}" in page
        assert f"{value:.1f}" in output


def check_is_plain(path, shape):
    """A saved model takes pixels and holds nothing of ours."""
    model = keras.saving.load_model(path)
    assert "keras_lgg" not in json.dumps(model.get_config(), default=str)
    assert model.input_shape == (None, *shape)
    return model


@ON_TENSORFLOW
def test_robustness(run, tmp_path):
    import robustness

    values, page, output = run(robustness)
    check_record(page, output, "robustness", values, "digits_small_cnn")
    gain = values["smooth geometry", "clean"] - values["plain", "clean"]
    assert f"smooth geometry against plain: clean {gain:+.1f} points; Gaussian noise " in output
    assert list(dict.fromkeys(values.index.get_level_values("variant"))) == robustness.VARIANTS
    for variant in robustness.VARIANTS:
        rows = values[variant]
        assert rows["clean"] > 85
        noisy = [rows[f"Gaussian noise, {snr} dB"] for snr in (20, 15, 10, 5)]
        assert noisy[0] > noisy[-1] + 5
        assert rows["clean"] + 2 > noisy[0]
        dropped = [rows[f"dropped units, {share} %"] for share in (10, 25, 40)]
        assert dropped == sorted(dropped, reverse=True)
        assert rows["quantized weights, 6 bits"] > rows["quantized weights, 4 bits"] - 3
        assert rows["PGD L-inf, 0.1"] <= rows["FGSM, 0.1"] + 2, "PGD is the stronger attack"
        assert rows["FGSM, 0.1"] < rows["clean"] - 5
    for variant in robustness.VARIANTS:
        model = check_is_plain(
            tmp_path / f"out/digits_{variant.replace(' ', '_')}.keras", (8, 8, 1)
        )
        images, labels = common.datasets.arrays("digits").test
        accuracy = np.mean(model.predict(images / 255.0, verbose=0).argmax(axis=1) == labels)
        assert 100 * accuracy == pytest.approx(values[variant, "clean"], abs=0.3)


def test_corruptions_are_relative_to_plain():
    """The mean over the severities, and the mean corruption error, by hand."""
    import robustness

    class Darker(lgg.robustness.DataPerturbation):
        name, severities = "darker", (0.5, 0.25)

        def data(self, images, labels, *, seed):
            for severity in self.severities:
                yield images * severity, labels

    def threshold(at):
        """Class 1 where the pixel is above the threshold."""
        dense = keras.layers.Dense(2)
        model = keras.Sequential([keras.Input((1,)), dense])
        model.set_weights([np.array([[-1.0, 1.0]]), np.array([at, -at])])
        return model

    args = robustness.parse([])
    images, labels = np.array([[0.9], [0.5], [0.3], [0.0]], "float32"), np.array([1, 1, 1, 0])
    models = {"plain": threshold(0.2), "ours": threshold(0.1)}
    rows = robustness.corruption_rows(args, models, (images, labels), [Darker()], 0)
    found = {(row["variant"], row["metric"]): row["value"] for row in rows}
    # Halved: 0.45, 0.25, 0.15; quartered: 0.225, 0.125, 0.075.
    assert found["plain", "darker"] == 100 * (3 / 4 + 2 / 4) / 2
    assert found["ours", "darker"] == 100 * (4 / 4 + 3 / 4) / 2
    assert found["plain", "mCE"] == pytest.approx(100)
    assert found["ours", "mCE"] == pytest.approx(100 * (1 / 4) / (1 / 4 + 2 / 4))


@ON_TENSORFLOW
def test_distillation(run, tmp_path):
    import distillation

    values, page, output = run(distillation)
    check_record(page, output, "distillation", values)
    errors = values.xs("error (%)", level="metric")
    assert "RKD-D against student alone: error " in output
    assert "teacher, to" not in output
    variants = [distillation.ALONE, *distillation.MAIN, "GKD + logits"]
    assert list(errors.index) == ["teacher", *variants]
    assert errors["teacher"] < 5
    assert (errors < 15).all()
    agreement = values.xs("agrees with the teacher (%)", level="metric")
    assert agreement["teacher"] == 100
    assert (agreement > 85).all()
    parameters = values.xs("parameters (thousands)", level="metric")
    assert (parameters.drop("teacher") < parameters["teacher"] / 4).all()
    check_is_plain(tmp_path / "out/digits_GKD_+_logits.keras", (8, 8, 1))


@ON_TENSORFLOW
def test_embeddings(run, tmp_path):
    import embeddings

    values, page, output = run(embeddings, "--width", "12")
    check_record(page, output, "embeddings", values)
    retrieved = values.index.get_level_values("metric").isin(["recall@1", "MAP@R"])
    assert (values[~retrieved] > 0).all()
    assert (values[~retrieved] < 8).all(), "in %, on digits"
    assert "**Retrieval within the test split" in page
    for variant in ("cross-entropy", "graph smoothness", "target graph"):
        rows = values[variant]
        assert rows["10-NN super-class error"] <= rows["10-NN error"]
        assert 92 < rows["recall@1"] < 100
        assert 60 < rows["MAP@R"] < rows["recall@1"]
        model = check_is_plain(
            tmp_path / f"out/digits_{variant.replace(' ', '_')}.keras", (8, 8, 1)
        )
        assert model.output_shape == (None, 12)


PAIRS = [
    pytest.param("vision_transformer", "small_cnn", 12, marks=ON_TENSORFLOW),
    pytest.param("small_cnn", "vision_transformer", 8, marks=ON_TORCH),
]
TRAINED = ["--epochs", "20", "--batch-size", "64"]  # a ViT needs some steps


@pytest.mark.parametrize(("teacher", "student", "epochs"), PAIRS)
def test_distillation_of_transformers(run, monkeypatch, teacher, student, epochs):
    """By all positions, of which both have other numbers, and by the means over them."""
    import distillation

    chosen = {distillation.ALONE: None, **{kind: {kind: 25.0} for kind in ("GKD", "GKD, pooled")}}
    monkeypatch.setattr(distillation, "students", lambda args: chosen)
    monkeypatch.setattr(distillation, "kinds", lambda args: ["GKD", "GKD, pooled"])
    options = ["--teacher", teacher, "--student", student, "--pooled", "--batch-size", "64"]
    values, page, output = run(distillation, *options, "--epochs", str(epochs))
    check_record(page, output, "distillation", values, f"digits_{teacher}_to_{student}")
    errors = values.xs("error (%)", level="metric")
    assert list(errors.index) == ["teacher", *chosen]
    assert errors["teacher"] < 10
    assert (errors < 60).all()
    assert len(set(errors)) > 2, "the penalties act"


@ON_TORCH
def test_embeddings_of_a_vision_transformer():
    import embeddings

    args = embeddings.parse(["--quick", "--network", "vision_transformer", *TRAINED])
    arrays = common.load(args)
    options = {"variant": embeddings.SMOOTHNESS, "alpha": args.alpha}
    network, data = embeddings.train(args, arrays, 0, "ViT", **options)
    model = common.deployable(data, network)
    train, test = (
        (embeddings.embed(model, images), labels) for images, labels in (arrays.train, arrays.test)
    )
    assert embeddings.classify(train, test, np.arange(10))["10-NN error"] < 20


@ON_TORCH
def test_robustness_of_a_vision_transformer():
    import robustness

    args = robustness.parse(["--quick", "--network", "vision_transformer", *TRAINED])
    arrays = common.load(args)
    model = robustness.train(args, arrays, 0, parseval=False, weight=args.weight, label="ViT")
    perturbations = robustness.noise_and_faults(args, model)
    table = lgg.robustness.evaluate({"ViT": model}, arrays.test, perturbations, progress=False)
    rows = {row["metric"]: row["value"] for row in robustness.accuracies(table)}
    assert rows["clean"] > 85
    assert rows["clean"] > rows["dropped units, 40 %"] + 2
    assert rows["Gaussian noise, 20 dB"] > rows["Gaussian noise, 5 dB"] + 5


@ON_TORCH
@pytest.mark.filterwarnings("ignore:Layer 'position_embedding'")  # KerasHub's, of its mask
def test_text_distillation(run):
    import text_distillation as example

    values, page, output = run(example)
    check_record(page, output, "text_distillation", values, "halves")
    accuracy = values.xs("accuracy (%)", level="metric")
    assert list(accuracy.index) == [example.TEACHER, example.ALONE, "logits", "GKD", example.BOTH]
    assert accuracy[example.TEACHER] > 40
    agreement = values.xs("agrees with the teacher (%)", level="metric")
    assert agreement[example.TEACHER] == 100
    assert agreement.drop(example.TEACHER).between(15, 95).all()
    sizes = values.xs("parameters (thousands)", level="metric")
    assert sizes.drop(example.TEACHER).nunique() == 1
    assert sizes[example.ALONE] < sizes[example.TEACHER] / 5


@ON_TENSORFLOW
@pytest.mark.filterwarnings("ignore:Layer 'position_embedding'")  # KerasHub's, of its mask
def test_text_robustness(run):
    import text_robustness as example

    values, page, output = run(example)
    check_record(page, output, "text_robustness", values, "halves")
    for variant in example.COLORS:
        rows = values[variant]
        assert rows["clean"] > 40
        assert rows["clean"] > rows["typos, 50 %"] + 5
        assert rows["typos, 10 %"] > rows["typos, 50 %"]
        assert rows["dropped tokens, 50 %"] < rows["clean"] + 2


@ON_TENSORFLOW
def test_classes_held_out_in_equal_shares():
    import text_data

    labels = np.repeat([0, 1, 2], [50, 30, 4])
    kept, out = text_data.held_out(labels, seed=0)
    assert sorted([*kept, *out]) == list(range(84))
    assert np.bincount(labels[out]).tolist() == [5, 3]
    assert not np.array_equal(out, text_data.held_out(labels, seed=1)[1])


@ON_TENSORFLOW
def test_what_a_text_is_about_by_hand():
    """Tokens 2 to 4 are in one, two and all of three texts; 0 and 1 are no words."""
    import text_encoders

    ids = np.array([[2, 3, 4, 0], [3, 3, 4, 1], [4, 0, 0, 0]])
    rarity = text_encoders._rarity(ids, 6)
    assert rarity == pytest.approx([0, 0, np.log(3), np.log(3 / 2), 0, np.log(3)])
    shares = text_encoders._shares(ids, rarity)
    of_both = np.log(3) + np.log(3 / 2)
    first = [0, 0, np.log(3) / of_both, np.log(3 / 2) / of_both, 0, 0]
    assert shares == pytest.approx(np.array([first, [0, 0, 0, 1, 0, 0], [0] * 6]))


@ON_TORCH
def test_stitching_autoencoders(run):
    import stitching_autoencoders

    values, page, output = run(stitching_autoencoders)
    check_record(page, output, "stitching_autoencoders", values)
    relative, permuted, absolute, translated = (
        values[f"AE, {name}"]
        for name in ("relative", "permuted anchors", "absolute", "absolute, Procrustes")
    )
    ratio = "stitched / own"
    assert relative[ratio] < 2
    assert translated[ratio] < 3
    assert permuted[ratio] > 3
    assert absolute[ratio] > 3
    assert relative["stitched, MSE (1e-3)"] < 0.5 * absolute["stitched, MSE (1e-3)"]
    for metric in ("cosine (%)", "Jaccard@10 (%)", "MRR (%)", "head, other (%)"):
        assert relative[metric] > absolute[metric] + 20
    assert relative["head, other (%)"] > relative["head, own (%)"] - 8


@ON_TORCH
def test_variational_autoencoders_are_stitched_too(run):
    import stitching_autoencoders

    values, *_ = run(stitching_autoencoders, "--kinds", "VAE", "--epochs", "4")
    ratio = "stitched / own"
    assert values["VAE, relative", ratio] < min(1.5, values["VAE, absolute", ratio])
    sampling = stitching_autoencoders.Sampling(outputs=10, seed=0)
    mean, log_variance = np.full((4000, 3), 2.0, "float32"), np.zeros((4000, 3), "float32")
    samples = keras.ops.convert_to_numpy(sampling(mean, log_variance, training=True))
    assert np.abs(samples.mean(axis=0) - 2).max() < 0.1
    assert np.abs(samples.std(axis=0) - 1).max() < 0.1
    # KL of N(2, 1) and N(0, 1) is 2 for each of the three, over ten outputs.
    assert float(sampling.losses[0]) == pytest.approx(3 * 2 / 10)
    still = keras.ops.convert_to_numpy(sampling(mean, log_variance))
    np.testing.assert_array_equal(still, mean)


@ON_TORCH
def test_stitching_classifiers(run):
    import stitching_classifiers as example

    values, page, output = run(example)
    check_record(page, output, "stitching_classifiers", values.filter(like="head"))
    for space in (example.RELATIVE, example.POST_HOC):
        assert values[space, "own head"] > 90
        assert values[space, "other seed"] > 80
        assert values[space, "other architecture"] > 80
    for metric in ("other seed", "other architecture"):
        assert values[example.ABSOLUTE, metric] < 35
        assert values[example.PERMUTED, metric] < 35
    assert values[example.ABSOLUTE, "own head"] > 90
    pairs = values[example.RELATIVE].filter(like="→")
    assert len(pairs) == 16
    own = [pairs[f"{name} {i} → {name} {i}"] for name in ("CNN", "ResNet") for i in (1, 2)]
    assert np.mean(own) == pytest.approx(values[example.RELATIVE, "own head"])


@ON_TENSORFLOW
def test_a_vision_transformer_is_stitched_like_any_other():
    import stitching_classifiers as example

    args = example.parse(["--quick", "--networks", "CNN", "ViT"])
    assert example.names(args) == ["CNN 1", "CNN 2", "ViT 1", "ViT 2"]
    data = common.pipelines(common.load(args), args, 0)
    images = np.zeros((2, *data.shape), "float32")
    for name in args.networks:
        assert example.encoder(args, data, name)(images).shape == (2, args.width)


@ON_TORCH
def test_relative_distillation(run):
    import relative_distillation

    values, page, output = run(relative_distillation)
    check_record(page, output, "relative_distillation", values)
    errors = values.xs(relative_distillation.OWN, level="metric")
    assert errors["relative teacher"] < 8
    assert (errors < 40).all()
    stitched = values.xs(relative_distillation.TEACHERS, level="metric")
    # Nothing ties an absolute student that learns alone to its teacher's axes.
    assert stitched["absolute, alone"] > 60
    assert stitched[stitched.index.str.startswith("relative")].max() < 50


@ON_TORCH
@pytest.mark.parametrize("name", ["ResNet", "ViT", "tanh MLP"])
def test_networks_whose_spaces_are_compared(name):
    import compare_spaces as example

    data = common.pipelines(common.load(args := example.parse(["--quick"])), args, 0)
    model, tapped = example.build(example.Run(name, 24, "SGD 0.1"), data)
    logits, penultimate = tapped(np.zeros((2, *data.shape), "float32"))
    assert model.output_shape == (None, 10)
    assert (logits.shape, penultimate.shape) == ((2, 10), (2, 24))


@ON_TORCH
def test_compare_spaces(run, monkeypatch, tmp_path):
    import compare_spaces

    arrays = common.datasets.arrays("digits")
    untested = arrays._replace(test=tuple(part[:0] for part in arrays.test))
    monkeypatch.setattr(common, "load", lambda args: untested)
    trainings = {name: compare_spaces.TRAININGS[name] for name in ("SGD 0.1", "SGD 0.003")}
    monkeypatch.setattr(compare_spaces, "TRAININGS", trainings)
    networks = ["--networks", "MLP", "CNN", "ViT"]
    values, page, output = run(compare_spaces, "--widths", "24", *networks)
    assert "    python examples/compare_spaces.py --quick" in page
    assert "results_compare_spaces_digits_MLP_CNN_ViT.png" in page
    assert (tmp_path / "results_compare_spaces_digits_MLP_CNN_ViT.png").stat().st_size > 10_000
    for metric in (compare_spaces.OVER_EPOCHS, compare_spaces.OVER_RUNS):
        for name in compare_spaces.SIMILARITIES:
            assert -1 <= values[name, metric] <= 1
            assert f"{values[name, metric]:.2f}" in page
            assert f"{values[name, metric]:.2f}" in output
        for name in (compare_spaces.CENTRED, compare_spaces.CKA):
            assert values[name, metric] > 0.5
    accuracy = values.xs(compare_spaces.ACCURACY, level="metric").groupby("variant").max()
    assert len(accuracy) == 6
    assert accuracy.max() > 0.9
    assert accuracy.min() < 0.6, "without poor runs there is nothing to tell"
    assert all(f"{100 * value:.1f}" in page for value in accuracy)
    for name in (compare_spaces.RELATIVE, compare_spaces.CENTRED, compare_spaces.CKA):
        similarity = values.xs(name, level="metric")
        assert len(similarity) == 6 * 8
        assert similarity.max() == pytest.approx(1, abs=1e-5), "of the reference itself"


@ON_TENSORFLOW
def test_citation_graphs(run, tmp_path):
    import citation_graphs as example

    values, page, output = run(example)
    assert "    python examples/citation_graphs.py --quick" in page
    assert (tmp_path / "results_citation_graphs_digits.png").stat().st_size > 10_000
    names = list(example.NETWORKS)
    for space in example.SPACES:
        own = [values[space, f"{name} 1, own head"] for name in names]
        assert own == [values[space, f"pair: {name} 1 → {name} 1"] for name in names]
        assert space == example.PERMUTED or min(own) > 50
        for text in (f"{value:.1f}" for value in [*own, values[space, "GCN → GIN"]]):
            assert text in page
            assert text in output
    for metric in ("GCN → GIN", "GIN → GCN"):
        others = max(values[example.ABSOLUTE, metric], values[example.PERMUTED, metric])
        assert others < 30
        assert values[example.RELATIVE, metric] > others + 10
    for name in example.SIMILARITIES[:3]:
        for metric in (example.OVER_STEPS, example.OVER_RUNS):
            assert -1 <= values[name, metric] <= 1
            assert f"{values[name, metric]:.2f}" in page
        similarity = values.xs(name, level="metric")
        assert similarity.max() == pytest.approx(1, abs=1e-5), "of the reference itself"
    assert values[example.CKA, example.OVER_STEPS] > 0.5
    reference = values.xs(example.compare_spaces.ACCURACY, level="metric").idxmax()
    assert f"| seed 53 | {reference} | {values[example.RELATIVE, example.OVER_RUNS]:.2f} |" in page
    accuracy = values.xs(example.TEST, level="metric")
    assert len(accuracy) == 6 * 3
    best = accuracy.groupby("variant").max()
    assert best.max() > 0.7
    assert best.min() < 0.5, "without poor runs there is nothing to tell"


def test_cross_lingual_retrieval(run, tmp_path):
    import cross_lingual_retrieval as example

    values, page, output = run(example)
    assert "    python examples/cross_lingual_retrieval.py --quick" in page
    assert (tmp_path / "results_cross_lingual_retrieval_halves.png").stat().st_size > 10_000
    directions = ("first half → second half", "second half → first half")
    for direction in directions:
        found = {
            space: [values[f"TF-IDF: {space}", f"R@{k}: {direction}"] for k in example.KS]
            for space in example.SPACES
        }
        for recalls in found.values():
            assert recalls == sorted(recalls)
            assert f"{recalls[0]:.1f}" in page
            assert f"{recalls[0]:.1f}" in output
        for space in (example.CENTRED, *example.TRANSLATORS):
            assert found[space][2] > 40
        for space in (example.ABSOLUTE, example.PERMUTED):
            assert found[space][2] < 15
        curve = [values[f"TF-IDF, {direction}", f"{n} anchors: R@10"] for n in (30, 100, 500)]
        assert curve == sorted(curve)
        assert curve[-1] == found[example.CENTRED][2]
    asked = values[values.index.get_level_values("variant").str.startswith(example.QUERY)]
    assert len(asked) == example.QUERIES
    assert all(1 <= rank <= 500 for rank in asked)


@ON_TORCH
def test_cross_lingual_classification(run, tmp_path):
    import cross_lingual_classification as example

    values, page, output = run(example)
    assert "    python examples/cross_lingual_classification.py --quick" in page
    assert (tmp_path / "results_cross_lingual_classification_halves.png").stat().st_size > 10_000
    relative, permuted, rotated = (
        example.named(space, 300)
        for space in (example.RELATIVE, example.PERMUTED, example.PROCRUSTES)
    )
    columns = ("own head", "second half with the head of first half", "other encoder and language")
    for score in ("Coarse accuracy", "Coarse F1", "Fine accuracy", "Fine F1"):
        found = {
            space: [values[space, f"{score}: {column}"] for column in columns]
            for space in (relative, permuted, rotated, example.ABSOLUTE)
        }
        for text in (f"{value:.1f}" for row in found.values() for value in row):
            assert text in page
            assert text in output
        for space in (relative, rotated):
            assert found[space][1] > max(found[permuted][1], found[example.ABSOLUTE][1]) + 15
        assert found[rotated][0] == pytest.approx(found[example.ABSOLUTE][0], abs=1)
    # The largest of 6 classes has a share of 36 %.
    kinds = ("TF-IDF", "CNN")
    names = [f"{kind}, {half} half" for half in ("first", "second") for kind in kinds]
    pairs = values[relative].filter(like="→").filter(like="Coarse accuracy")
    assert list(pairs.index) == [f"Coarse accuracy: {a} → {b}" for a in names for b in names]
    matrix = pairs.to_numpy().reshape(4, 4)
    assert np.diag(matrix).mean() == values[relative, "Coarse accuracy: own head"]
    assert np.diag(matrix).min() > 50
    counted = np.ix_([0, 2], [0, 2])
    assert matrix[counted].min() > 80
    assert values[permuted, "Coarse accuracy: other encoder and language"] < 45


@ON_TENSORFLOW
def test_recalls_by_hand():
    """The counterpart of the first is second; of the others, one of 12 that tie, but the last."""
    import cross_lingual_retrieval as example

    queries = np.array([[2.0, 0.0], [0.0, 3.0], *[[0.0, 0.0]] * 10])
    keys = np.array([[5.0, 1.0], [1.0, 0.0], *[[1.0, 1.0]] * 10])
    places = [2, 12, *range(3, 13)]
    expected = [(k, pytest.approx(100 * np.mean([p <= k for p in places]))) for k in example.KS]
    assert example.recalls(queries, keys) == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--data", "halvse"], ValueError, "--data.*halves.*multi30k"),
        (["--data", "multi30k", "--data-dir", "."], FileNotFoundError, "multi30k.*text_data.py"),
        (["--anchors", "5000"], ValueError, "too few texts.*--anchors 5000"),
    ],
)
@ON_TENSORFLOW
def test_texts_that_will_not_do(options, error, message, tmp_path, monkeypatch):
    import cross_lingual_retrieval as example

    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        example.main(["--languages", "en", "de", *options] if "multi30k" in options else options)


@ON_TENSORFLOW
def test_texts_of_unequal_number():
    import text_data

    with pytest.raises(ValueError, match=r"do not pair.*'en': 2, 'de': 1"):
        text_data.check_paired({"en": ["a", "b"], "de": ["c"]})


@ON_TENSORFLOW
def test_word_vectors(run, tmp_path):
    pytest.importorskip("gensim", reason="word vectors need the extra text")
    import word_vectors as example

    values, page, output = run(example)
    assert "    python examples/word_vectors.py --quick" in page
    for name in ("", f"_{example.PICTURE}"):
        assert f"(results_word_vectors_documentation{name}.png)" in page
        assert (tmp_path / f"results_word_vectors_documentation{name}.png").stat().st_size > 10_000
    assert list(dict.fromkeys(values.index.get_level_values("variant"))) == list(example.SPACES)
    for value in values:
        assert f"{value:.2f}" in page
        assert f"{value:.2f}" in output
    for direction in ("word2vec → FastText", "FastText → word2vec"):
        jaccard, mrr, cosine = (
            values.xs(f"{direction}: {metric}", level="metric") for metric in example.AGREEMENT
        )
        for space in (*example.ANCHORS, example.CENTRED, example.PROCRUSTES):
            assert jaccard[space] > 0.2
            assert mrr[space] > 0.5
            assert cosine[space] > 0.5
        for space in (example.ABSOLUTE, example.PERMUTED):
            assert jaccard[space] < 0.05
            assert mrr[space] < 0.05
        assert abs(cosine[example.ABSOLUTE]) < 0.2
        assert cosine["uniform"] > cosine[example.PERMUTED] + 0.03, "vectors lie in a cone"


@ON_TENSORFLOW
def test_words_of_a_space_and_of_the_same_one_turned(monkeypatch, tmp_path):
    """Nothing but a rotation between both: relative codes see none, the coordinates see all."""
    import word_vectors as example

    count, width = 600, 16
    rng = np.random.default_rng(0)
    vectors, (turn, _) = rng.normal(size=(count, width)), np.linalg.qr(rng.normal(size=(width, 16)))
    spaces = {"word2vec": vectors, "FastText": 3 * vectors @ turn}
    seeds = []

    def train(args, name, texts, words, seed):
        seeds.append(seed)
        return spaces[name]

    text = [[f"w{i}"] * 5 for i in range(count)] + [["rare"] * 4]
    monkeypatch.setattr(example, "sentences", lambda args: text)
    monkeypatch.setattr(example, "train", train)
    args = example.parse(["--anchors", "100", "--output", str(tmp_path)])
    found = {(r["variant"], r["metric"]): r["value"] for r in example.run_seed(args, 1)}
    assert len(set(seeds)) == 2, "or both start from the same vectors"
    assert len(found) == len(example.SPACES) * 2 * 3
    for (space, metric), value in found.items():
        if space in (example.ABSOLUTE, example.PERMUTED):
            assert abs(value) < 0.2, (space, metric)
        else:
            assert value == pytest.approx(1, abs=1e-4), (space, metric)
    # What is looked up where: the coordinates of both, without the anchors of this seed.
    anchors = lgg.relative.select_anchors(vectors, 100, seed=1)
    rest = {name: np.delete(space, anchors, axis=0) for name, space in spaces.items()}
    for a, b in (("word2vec", "FastText"), ("FastText", "word2vec")):
        expected = lgg.relative.compare_spaces(rest[a], rest[b])
        for metric, key in example.AGREEMENT.items():
            assert found[example.ABSOLUTE, f"{a} → {b}: {metric}"] == expected[key]


@ON_TENSORFLOW
def test_anchors_are_not_compared():
    import word_vectors as example

    a, b = (np.random.default_rng(seed).normal(size=(200, 8)) for seed in (0, 1))
    anchors = np.arange(0, 200, 2)
    b[anchors] = a[anchors]  # which would make half of all ranks 1
    assert example.compare(a, b, anchors)["mrr"] < 0.2


@ON_TENSORFLOW
def test_words_of_a_group_are_alike_and_a_plane_is_that_of_the_first():
    import word_vectors as example

    rng = np.random.default_rng(0)
    middles = 10 * np.eye(8)[: example.GROUPS]
    which = np.tile(np.arange(example.GROUPS), 50)
    space = middles[which] + rng.normal(size=(len(which), 8)) / 10
    groups = example.alike(space, seed=0)
    assert sorted(which[group[0]] for group in groups) == list(range(example.GROUPS))
    for group in groups:
        assert (which[group] == which[group[0]]).all()
        assert len(set(group)) == example.NEAREST
    # Rows of length 1 that differ in the first coordinate most, and in the second less.
    first = np.array([[3, 0, 4], [-3, 0, 4], [0, 1, 7**0.5 * 2], [0, -1, 7**0.5 * 2]])
    one, other = example.in_plane(first, 2 * first[::-1])
    expected = np.array([[0.6, 0], [-0.6, 0], [0, 29**-0.5], [0, -(29**-0.5)]])
    signs = np.sign(one[0, 0]), np.sign(one[2, 1])
    assert one == pytest.approx(expected * signs, abs=1e-9)
    assert other == pytest.approx(one[::-1], abs=1e-9)
    _, turned = example.in_plane(first, first[:, [1, 0, 2]])
    assert turned == pytest.approx(expected[:, ::-1] * signs, abs=1e-9)


@ON_TENSORFLOW
def test_a_seed_decides_word_vectors():
    pytest.importorskip("gensim", reason="word vectors need the extra text")
    import word_vectors as example

    args = example.parse(["--epochs", "2", "--width", "8", "--occurrences", "1"])
    texts = [["a", "red", "house"], ["a", "blue", "house"], ["the", "red", "car"]]
    words = ["red", "house", "a"]
    for name in example.MODELS:
        first, again, other = (example.train(args, name, texts, words, s) for s in (3, 3, 4))
        assert first.shape == (3, 8)
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--data", "halves"], ValueError, "--data.*documentation.*multi30k"),
        (["--data", "multi30k", "--data-dir", "."], FileNotFoundError, "train.en.gz.*text_data.py"),
        (["--texts", "100"], ValueError, r"too few words.*310.*--occurrences 5.*in 100 texts"),
    ],
)
@ON_TENSORFLOW
def test_texts_with_too_few_words(options, error, message, tmp_path, monkeypatch):
    import word_vectors as example

    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        example.main(options)


@ON_TENSORFLOW
def test_words_and_paragraphs(monkeypatch):
    """Frequent words first, in lower case; a paragraph counts once, and a short one not at all."""
    import text_data
    import word_vectors as example

    long = "One two three four five six seven eight"
    monkeypatch.setattr(
        text_data, "_documentation", lambda: {f"{long}\n\nshort", f"x\n\n{long.replace(' ', '  ')}"}
    )
    assert text_data.paragraphs() == [long]
    monkeypatch.setattr(text_data, "english", lambda args: ["A dog's 2 dogs.", "a Dog", "a cat"])
    args = example.parse(["--texts", "2", "--occurrences", "2", "--anchors", "2"])
    texts = example.sentences(args)
    assert texts == [["a", "dog", "s", "dogs"], ["a", "dog"]]
    monkeypatch.setattr(example, "K", 0)
    assert example.vocabulary(args, texts) == ["a", "dog"]


def test_correlations_by_hand():
    """Of runs that have learnt, where r is defined, without that of the reference."""
    import compare_spaces

    runs = {
        "MLP 8, SGD 0.1": ([0.6, 0.8, 1.0], [0.9, 1.0, 0.9]),  # the reference
        "MLP 8, Adam 0.001": ([0.6, 0.7, 0.8], [0.3, 0.4, 0.5]),  # r = 1
        "CNN 8, SGD 0.1": ([0.6, 0.8, 0.7], [0.5, 0.5, 0.5]),  # undefined
        "CNN 8, Adam 0.001": ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]),  # has not learnt
        "tanh MLP 8, SGD 0.1": ([0.5, 0.6, 0.9], [0.5, 0.6, 0.9]),  # r = 1
        "tanh MLP 8, SGD 0.003": ([0.9, 0.5, 0.4], [0.1, 0.5, 0.6]),  # r = -1
    }
    rows = [
        {"variant": variant, "metric": metric, "value": value, "epoch": epoch}
        for variant, (accuracies, similarities) in runs.items()
        for epoch in range(3)
        for metric, value in (
            (compare_spaces.ACCURACY, accuracies[epoch]),
            (compare_spaces.RELATIVE, similarities[epoch]),
        )
    ]
    found = {row["metric"]: row["value"] for row in compare_spaces.correlations(rows)}
    best = np.array([[0.8, 0.5], [0.8, 0.5], [0.3, 0.1], [0.9, 0.9], [0.9, 0.1]])
    expected = {
        compare_spaces.OVER_EPOCHS: 1 / 3,
        compare_spaces.ALIKE_EPOCHS: 1,
        compare_spaces.OVER_RUNS: np.corrcoef(best.T)[0, 1],
        compare_spaces.ALIKE_RUNS: 1,
    }
    assert found == pytest.approx(expected)


@ON_TENSORFLOW
def test_anchors(run, tmp_path):
    import anchors

    values, page, output = run(anchors, "--counts", "10", "500", "--at", "50")
    check_record(page, output, "anchors", values)
    assert (tmp_path / "results_anchors_digits.png").stat().st_size > 10_000
    absolute = values[anchors.ABSOLUTE]
    assert absolute[anchors.SWAPPED] < 40
    assert absolute[anchors.OWN] > 90
    for method in anchors.METHODS:
        few, many = values[method, "Jaccard@10"]
        assert many > few
        assert many > 5 * absolute["Jaccard@10"]
        few, many = values[method, anchors.SWAPPED]
        assert many > few
        assert many > 90
        assert min(values[method, "MRR"]) > absolute["MRR"]
        assert min(values[method, "cosine"]) > absolute["cosine"] + 20
    assert values["uniform, center", "cosine"] < values["uniform, none", "cosine"]
    for name in (anchors.FIRST, anchors.SECOND):
        check_is_plain(tmp_path / f"out/digits_{name}.keras", (8, 8, 1))


@ON_TORCH
@pytest.mark.filterwarnings("ignore:The optimal value found")  # scikit-learn's, of its kernel
def test_tune(run, tmp_path):
    pytest.importorskip("keras_tuner", reason="the search needs the extra tuner")
    import tune

    values, page, output = run(tune)
    variants = [tune.PLAIN, tune.BY_HAND, tune.SEARCHED, "balanced, 0.1"]
    tested = values[variants]
    check_record(page, output, "tune", tested)
    trials = values.drop(variants, level="variant").unstack()
    assert len(trials) == 3
    assert trials["weight"].iloc[0] == 0
    assert (trials["weight"].iloc[1:] <= tune.RANGE[1]).all()
    assert "0: " in page
    assert page.count(" *") == 1, "the one that was chosen"
    chosen = trials.loc[trials["score"].idxmax()]
    assert f"{chosen['weight']:.3g}: {chosen['score']:.1f} *" in output
    assert tested[:, "clean"].min() > 80
    for variant in variants:
        rows = tested[variant]
        assert rows["clean"] > rows["noise 0.2"] > rows["noise 0.3"]
        assert rows[tune.UNDER_NOISE] == pytest.approx((rows["noise 0.2"] + rows["noise 0.3"]) / 2)
    model = check_is_plain(tmp_path / "out/digits_searched.keras", (8, 8, 1))
    images, labels = common.datasets.arrays("digits").test
    accuracy = np.mean(model.predict(images / 255.0, verbose=0).argmax(axis=1) == labels)
    assert 100 * accuracy == pytest.approx(tested[tune.SEARCHED, "clean"], abs=0.3)


def test_a_search_sees_no_test_data(monkeypatch):
    """Its data are parts of the training split, and the noise is on the validation part."""
    pytest.importorskip("keras_tuner", reason="the search needs the extra tuner")
    import tune

    args, given = tune.parse([]), {}

    def search(build, penalty, data, **options):
        given.update(options, data=data, model=build([penalty]))

    monkeypatch.setattr(tune.lgg.tuning, "search_penalty_weights", search)
    arrays = tune.split(args, 0)
    empty = tuple(part[:0] for part in arrays.test)
    tune.search(args, arrays._replace(test=empty), 0)
    images, labels = given["validation_data"]
    count = len(arrays.validation[1])
    assert len(images) == len(labels) == count * len(tune.NOISES) * tune.DRAWS
    np.testing.assert_array_equal(labels[:count], arrays.validation[1])
    noise = np.random.default_rng(0).standard_normal((6, *arrays.validation[0].shape))
    for copy, sigma in enumerate(np.repeat(tune.NOISES, tune.DRAWS)):
        expected = np.clip(arrays.validation[0] + sigma * noise[copy], 0, 1)
        np.testing.assert_allclose(images[copy * count :][:count], expected, atol=1e-6)
    assert given["data"] is arrays.train
    assert given["weights"] == tune.RANGE
    assert given["trials"] == 10


@pytest.mark.parametrize("name", ["robustness", "distillation", "embeddings"])
@ON_TENSORFLOW
def test_select_compares_on_validation(run, name, monkeypatch):
    """--select never touches the test split."""
    example = __import__(name)
    arrays = common.datasets.arrays("digits")
    images, labels = arrays.train[0][:200], arrays.train[1][:200]
    few = arrays._replace(train=(images, labels), test=(images[:0], labels[:0]))
    monkeypatch.setattr(common, "load", lambda args: few)
    for grid in ("WEIGHTS", "ALPHAS"):
        if hasattr(example, grid):
            monkeypatch.setattr(example, grid, (0.0, 1e-4) if grid == "WEIGHTS" else (0.5,))
    if name == "distillation":
        monkeypatch.setattr(example, "GRID", {"GKD": (5.0,)})
    values, page, _ = run(example, "--select", "--epochs", "1")
    assert len(values) > 2
    assert "how its settings were chosen" in page


class TestNetworks:
    @pytest.mark.parametrize(
        ("build", "taps"),
        [
            (networks.preact_resnet18, networks.BLOCKS),
            (networks.preact_resnet18, networks.BLOCK_RELUS),
            (networks.wide_resnet, networks.GROUPS),
            (networks.small_cnn, networks.STAGES),
        ],
    )
    def test_taps_are_non_negative_layers_in_order(self, build, taps):
        model = build((16, 16, 3), 7, width=4)
        assert model.output_shape == (None, 7)
        assert [path for path in lgg.layer_paths(model) if path in taps] == taps
        images = np.random.default_rng(0).random((2, 16, 16, 3))
        found = lgg.plots.representations(model, images, taps)
        assert list(found) == taps
        assert all(representation.min() == 0 for representation in found.values())

    def test_sizes_are_those_of_the_papers(self):
        def trainable(model):
            return sum(int(np.prod(w.shape)) for w in model.trainable_weights)

        assert trainable(networks.preact_resnet18((32, 32, 3), 10)) == 11_172_170
        wrn = networks.wide_resnet((32, 32, 3), 10, depth=28, width=10)
        assert trainable(wrn) == 36_479_194

    def test_a_wrong_depth_says_what_fits(self):
        with pytest.raises(ValueError, match=r"`depth`.*6 n \+ 4"):
            networks.wide_resnet((32, 32, 3), 10, depth=20)


class TestRecord:
    def test_replaces_its_own_section_alone(self, tmp_path):
        page = tmp_path / "page.md"
        for key, text in [("a", "one"), ("b", "two"), ("a", "three")]:
            common.record(page, key, text)
        text = page.read_text()
        assert "one" not in text
        assert text.index("three") < text.index("two")
        assert text.count("<!-- begin a -->") == 1

    def test_spread_is_that_of_a_sample(self):
        assert common.describe([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
        assert common.describe([1.25]) == "1.2"


@pytest.mark.parametrize("steps", [4, 25, 300])
def test_the_learning_rate_is_that_of_keras(steps):
    ours = common.WarmCosine(0.1, steps)
    options = {"warmup_target": 0.1, "warmup_steps": max(1, steps // 10)}
    theirs = keras.optimizers.schedules.CosineDecay(0.0, steps, **options)
    for step in range(steps + 1):
        assert float(ours(step)) == pytest.approx(float(theirs(step)), abs=1e-7)


class TestProgress:
    @pytest.fixture
    def train(self, monkeypatch, capsys):
        """What two trainings of two epochs show."""

        def train(is_terminal, **options):
            monkeypatch.setattr(common.sys.stdout, "isatty", lambda: is_terminal, raising=False)
            progress = Progress(**options)
            progress.seed = 7
            for label in ("short", "long " * 30):
                progress.training(label).set_params({"epochs": 2})
                progress.on_train_begin()
                for epoch, loss in enumerate((0.5, 0.25)):
                    progress.on_epoch_end(epoch, {"loss": loss, "accuracy": 1 - loss})
                progress.on_train_end()
            progress.clear()
            return capsys.readouterr().out

        return train

    def test_a_terminal_has_one_line(self, train):
        shown = train(True, total=2)
        assert "\n" not in shown
        _, *lines, last = shown.split("\r")
        assert last == ""
        assert {len(line) for line in lines} == {79}
        assert lines[-1].strip() == "", "an empty line is left"
        expected = "0 s  training 1 of 2  seed 7  short  epoch 2/2  loss 0.25  accuracy 0.75"
        assert lines[2].strip() == expected
        assert lines[5].strip() == "0 s  training 2 of 2  seed 7"

    def test_a_log_has_a_line_for_each_training(self, train):
        first, second = train(False).splitlines()
        expected = "training 1  seed 7  short  2 epochs  0.0 s  loss 0.25  accuracy 0.75"
        assert first == expected
        assert second.startswith("training 2  seed 7  long long")

    def test_the_first_seed_tells_how_many_trainings_there_are(self, capsys):
        args = common.arguments(common.parser("", "x", epochs=1, batch_size=1), [], quick={})

        def run_seed(args, seed):
            args.progress.training("it").set_params({"epochs": 1})
            for _ in range(2):
                args.progress.on_train_begin()
                args.progress.on_train_end()
            return seed_rows(args, seed)

        common.run_seeds(run_seed, args)
        places = [line.split("  ")[:2] for line in capsys.readouterr().out.splitlines()]
        of = ["training 1", "training 2", *(f"training {i} of 6" for i in range(3, 7))]
        assert places == [[text, f"seed {i // 2}"] for i, text in enumerate(of)]


def test_what_a_variant_brings_is_said_of_those_that_were_measured():
    rows = [
        {"variant": variant, "metric": metric, "seed": seed, "value": value + seed}
        for variant, values in {"a": (1, 2), "plain": (3, 5), "b": (4, 3), "c": (1,)}.items()
        for metric, value in zip(("error (%)", "MRR"), values, strict=False)
        for seed in range(2)
    ]
    metrics = {"MRR": "max", "error (%)": "min"}
    said = common.effects(common.pd.DataFrame(rows), "plain", metrics)
    first, second = said.splitlines()
    assert "a against plain: MRR -3.0 ± 0.0 points; error -2.0 ± 0.0 points." in first
    assert "Better in error, worse in MRR, beyond the spread of 2 seeds." in first
    assert "b against plain: MRR -2.0 ± 0.0 points; error +1.0 ± 0.0 points." in second


def test_seeds_side_by_side_give_what_one_after_the_other_gives(tmp_path, monkeypatch):
    import embeddings

    monkeypatch.chdir(tmp_path)
    argv = ["--quick", "--epochs", "1", "--output", "out"]
    args = embeddings.parse(argv)
    vars(args).update(seeds=2, epochs=1)
    alone = common.run_seeds(seed_rows, args)
    vars(args).update(jobs=2)
    together = common.run_seeds(seed_rows, args)
    assert alone.equals(together)


def seed_rows(args, seed):
    """Stands in for training: what a seed gives."""
    value = float(np.random.default_rng(seed).random())
    return [{"variant": "v", "metric": "m", "value": value + args.epochs}]


@ON_TENSORFLOW
def test_latent_manifolds(run, tmp_path):
    """The acceptance properties of the specification that need trained networks (B8, 10 to 12)."""
    import latent_manifolds as example

    values, page, output = run(example)
    assert "    python examples/latent_manifolds.py --quick" in page
    assert "**Caveats**" in output
    for name in ("", *(f"_{name}" for name in example.FIGURES)):
        assert f"(results_latent_manifolds_digits{name}.png)" in page
        assert (tmp_path / f"results_latent_manifolds_digits{name}.png").stat().st_size > 5000
    report = json.loads((tmp_path / "out/latent_manifolds_digits_report.json").read_text())
    assert [each["name"] for each in report["manifolds"]] == ["CAE", "DAE", "VAE"]

    def value(name, table, column):
        found = values[name, f"{table}: {column}"]
        assert f"{found:.1f}" in page
        assert f"{found:.1f}" in output
        return found

    for name in ("CAE", "DAE", "VAE, mean"):
        assert value(name, example.ALL, "stratified (1 or 0)") == 1
        assert value(name, example.ALL, "range of S3") >= 6  # of sixty images, here
    assert value("VAE", example.ALL, "number") == 1
    angles = {name: value(name, example.ANGLE, "0.5") for name in example.CURVES}
    assert angles["VAE"] <= 15
    assert angles["VAE"] <= angles["VAE, fresh noise"] / 2
    assert min(angles["CAE"], angles["DAE"]) >= 2 * angles["VAE"]

    def growth(name):
        clean, noisy = (value(name, example.DIMENSION, sigma) for sigma in ("0", "0.1"))
        return abs(noisy - clean) / clean

    assert min(growth("CAE"), growth("DAE")) >= 0.5
    assert growth("VAE") <= 0.05
    drop = {
        name: value(name, example.PSNR, "0") - value(name, example.PSNR, "0.5")
        for name in ("CAE", "DAE", "VAE")
    }
    assert drop["CAE"] > 5
    assert drop["CAE"] > max(drop["DAE"], drop["VAE"])
    for column in ("number", "S2, least", "S3, least", "S3, largest"):
        trained, untrained = (
            value(name, example.STRATA, column) for name in ("CAE", "CAE, untrained")
        )
        assert trained == pytest.approx(untrained, abs=1)
    check_is_plain_autoencoder(tmp_path / "out/digits_CAE.keras")


def check_is_plain_autoencoder(path):
    model = check_is_plain(path, (28, 28, 1))
    assert model.get_layer("encoder").output_shape == (None, 7, 7, 128)


@ON_TORCH
def test_smooth_manifolds(run):
    import smooth_manifolds as example

    values, page, output = run(example, "--epochs", "2", "--images", "20", "--samples", "400")
    assert "    python examples/smooth_manifolds.py --quick" in page
    assert "results_smooth_manifolds_digits.png" in page
    assert len(values.index.unique("variant")) == 4
    for (_, metric), found in values.items():
        if metric.partition(": ")[0] in example.SHOWN:
            assert f"{found:.1f}" in page
            assert f"{found:.1f}" in output


def test_a_penalty_is_on_the_layers_of_the_encoder_that_is_characterised():
    import smooth_manifolds as example

    model = example.manifolds.build_cae((8, 8, 1))
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")
    rng = np.random.default_rng(0)
    images, labels = rng.random((12, 8, 8, 1), "float32"), np.arange(12) % 3
    for name in example.PENALTIES:
        layer = example.penalty(name, labels, 10.0)
        penalized = example.penalized(encoder, decoder, layer)
        outputs = penalized([images, labels.astype("int32")], training=True)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(outputs), model.predict(images, verbose=0), atol=1e-5
        )
        taps = [
            keras.Model(encoder.input, encoder.get_layer(t).output)(images) for t in example.TAPS
        ]
        expected = 10 * float(
            layer.loss(taps) if name == "graph variation" else layer.loss(labels, taps)
        )
        assert float(sum(penalized.losses)) == pytest.approx(expected, rel=1e-4)
        assert expected > 0


@ON_TORCH
def test_balanced_weights(run):
    import balanced_weights as example

    values, page, output = run(example)
    assert "    python examples/balanced_weights.py --quick" in page
    assert "results_balanced_weights_digits.png" in page
    for task in example.GRIDS:
        score, weight = f"{example.SCORE}: {task}", f"{example.WEIGHT}: {task}"
        scores = values.xs(score, level="metric")
        assert list(scores.index) == [example.NONE, example.TUNED, "balanced, 0.1"]
        assert scores.between(80, 100).all()
        assert np.isfinite(values["balanced, 0.1", weight])
        assert (example.NONE, weight) not in values.index
        assert all(f"{found:.1f}" in page and f"{found:.1f}" in output for found in scores)


@ON_TORCH
def test_small_batches(run):
    import small_batches as example

    values, page, output = run(example)
    assert "    python examples/small_batches.py --quick" in page
    for task in example.GRIDS:
        scores = values.xs(f"{task}: batches of 16", level="metric")
        assert list(scores.index) == ["no memory", "memory of 64"]
        assert scores.between(50, 100).all()
        assert all(f"{found:.1f}" in page and f"{found:.1f}" in output for found in scores)


def test_a_weight_is_tuned_on_the_validation_split(monkeypatch):
    import balanced_weights as example

    def measured(args, data, task, teacher, seed, options):
        place = options["weight"] == "balanced" or args.grid[task].index(options["weight"])
        return {"validation": -abs(place - 1), "test": 10 * place}, float(place)

    monkeypatch.setattr(example, "measured", measured)
    args = example.parse(["--quick", "--epochs", "1"])
    found = {(row["variant"], row["metric"]): row["value"] for row in example.run_seed(args, 0)}
    for task in example.GRIDS:
        assert found[example.TUNED, f"{example.SCORE}: {task}"] == 10
        assert found[example.TUNED, f"{example.WEIGHT}: {task}"] == 0
        assert found[example.NONE, f"{example.SCORE}: {task}"] == 0


@ON_TENSORFLOW
def test_default_weights(run):
    import default_weights as example

    values, page, output = run(example, "--losses", "RKD-D", "graph smoothness")
    assert "    python examples/default_weights.py --quick" in page
    rows = values.xs("test", level="metric")
    assert list(dict.fromkeys(rows.index)) == ["RKD-D", "graph smoothness"]
    for name in rows.index.unique():
        default, none, at_once, much = rows[name]
        assert default != at_once
        assert min(none, default) > 60
        assert much < default, "a thousandfold ruins the network"
        assert f"{default - none:.1f}" in page
        assert f"{default - none:.1f}" in output


@ON_TENSORFLOW
def test_a_figure_is_drawn_anew_without_training(run, tmp_path, monkeypatch):
    import default_weights as example

    trained, *_ = run(example, "--losses", "RKD-D", "--steps", "5", "--multiples", "0", "1")
    picture = tmp_path / "results_default_weights_digits.png"
    drawn = picture.read_bytes()
    picture.unlink()
    monkeypatch.setattr(example, "run_seed", None)  # nothing can train
    drawn_from, *_ = run(example, "--losses", "RKD-D", "--multiples", "0", "1", "--redraw")
    np.testing.assert_allclose(drawn_from, trained, rtol=1e-4)
    assert len(picture.read_bytes()) == pytest.approx(len(drawn), rel=0.01)
    with pytest.raises(SystemExit, match="Expected a page"):
        example.main(["--quick", "--redraw"])


def test_what_the_search_of_a_weight_finds():
    """The best on validation, with its test score, among the weights from the first step."""
    import default_weights as example

    scores = {-1.0: (99, 83, 45), 0.0: (90, 80, 40), 1.0: (91, 82, 46), 10.0: (92, 81, 60)}
    frame = common.pd.DataFrame(
        [
            {"variant": "a", "task": "digits", "batch": 32, "seed": 0, "multiple": m, **row}
            for m, values in scores.items()
            for row in (
                {"metric": kind, "value": value}
                for kind, value in zip(("validation", "test", "noise"), values, strict=True)
            )
        ]
    )
    (found,) = example.compared(frame).to_dict("records")
    assert (found["default"], found["search"], found["none"]) == (83, 81, 80)
    assert found["at once"] == 82
    assert found["noise"] == 5


@ON_TENSORFLOW
def test_regularizers(run):
    import regularizers as example

    others = ("smoothness variation", "relative", "graph variation", "dropout")  # as their kin do
    methods = [name for name in example.METHODS if name not in others]
    values, page, output = run(example, "--epochs", "3", "--methods", *methods)
    clean = values.xs("clean", level="metric")
    assert list(clean.index) == methods
    assert clean["plain"] > 60
    assert clean.median() > 60
    for kind in ("Gaussian noise, 5 dB", "dropped units, 25 %", "PGD L-inf, 0.1"):
        assert kind in page
    assert "noise on the inputs against plain: clean" in output
    assert "plain 0; noise on the inputs 0.4;" in page


@ON_TENSORFLOW
def test_regularizers_choose_their_settings(run):
    import regularizers as example

    values, page, output = run(example, "--select", "--epochs", "2", "--methods", "plain", "SAM")
    found = values.xs("clean", level="metric").index
    assert list(found) == ["plain, 0", "SAM, 0.02", "SAM, 0.05", "SAM, 0.1", "SAM, 0.2"]
    assert "Chosen by the best mean under all perturbations" in page
    assert "Seed 100." in page
    assert "Chosen by" in output


def test_the_rule_by_which_a_setting_is_chosen():
    """The most robust of those that cost at most a point; a method may have none."""
    import regularizers as example

    rows = {
        "plain, 0": (90, 50),
        "a, 1": (89.5, 52),
        "a, 2": (89.2, 55),
        "a, 3": (88.0, 80),
        "b, c, 1": (80, 90),
    }
    frame = common.pd.DataFrame(
        [
            {"variant": name, "metric": metric, "value": value}
            for name, pair in rows.items()
            for metric, value in zip(("clean", "noise"), pair, strict=True)
        ]
    )
    found = example.conclude(frame)
    assert "accuracy: plain 0; a 2; b, c 1." in found
    assert found.endswith("since all cost more: b, c.")


@ON_TENSORFLOW
def test_a_step_of_sharpness_aware_minimisation():
    """Of w**2 / 2, from w: the gradient at w + rho, where it is w + rho."""
    import regularizers as example

    inputs = keras.Input((1,))
    outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs)
    model = example.SAM(inputs, outputs)
    model.rho = 0.25
    half = keras.losses.MeanSquaredError()
    model.compile(keras.optimizers.SGD(0.1), lambda y, p: 0.5 * half(y, p))
    model.fit(np.ones((4, 1)), np.zeros((4, 1)), batch_size=4, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], 1 - 0.1 * 1.25, rtol=1e-5)


@ON_TENSORFLOW
def test_samples_that_are_mixed():
    import regularizers as example
    import tensorflow as tf

    x = np.arange(6, dtype="float32")[:, None]
    batches = tf.data.Dataset.from_tensor_slices((x, np.arange(6) % 3)).batch(6)
    keras.utils.set_random_seed(0)
    ((mixed, classes),) = example.one_hot(batches, 3, 1.0).as_numpy_iterator()
    np.testing.assert_allclose(classes.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed.sum(), x.sum(), rtol=1e-5)
    assert not np.array_equal(mixed, x)
    ((same, classes),) = example.one_hot(batches, 3, None).as_numpy_iterator()
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(classes, np.eye(3)[np.arange(6) % 3])


@ON_TENSORFLOW
def test_distillation_beside_what_others_distil_by(run):
    import distillation

    others = ["attention transfer", "DIST", "DKD", "SPKD", "PKT", "CCKD"]
    values, page, _ = run(distillation, "--epochs", "4", "--methods", *others)
    errors = values.xs("error (%)", level="metric")
    grid = [kind for kind in distillation.GRID if kind in others]
    assert list(errors.index) == ["teacher", "student alone", *grid, "GKD + logits"]
    assert errors.median() < 25
    assert len(set(errors)) > 5, "the penalties act"
    assert "weights: SPKD 3000, PKT 2560, CCKD 2, attention transfer 1000, DIST 2, DKD 1." in page


@ON_TENSORFLOW
def test_imperfect_labels(run):
    import imperfect_labels as example

    cases = ["open classes", "few labels"]  # wrong labels have a test of their own
    options = ["--cases", *cases, "--methods", *example.METHODS, "--epochs", "4"]
    values, page, output = run(example, *options)
    for case in cases:
        assert f"**{case}, the test split, in %**" in page
        assert f"{case}: graph smoothness against cross-entropy: " in output
    retrieved = values.xs("open classes: MAP@R", level="metric")
    assert retrieved["pixels"] > 40
    assert retrieved.median() > 40
    few = values.xs("few labels: 10-NN", level="metric")
    assert few.median() > 60
    assert "pseudo-labels" in few
    assert "pseudo-labels" not in retrieved


@ON_TENSORFLOW
def test_imperfect_labels_choose_their_settings(run):
    import imperfect_labels as example

    options = ["--cases", "40 % wrong", "--methods", "label smoothing", "--epochs", "2"]
    values, page, output = run(example, "--select", *options)
    found = list(dict.fromkeys(values.index.get_level_values("variant")))
    assert found == [f"label smoothing, {share}" for share in (0.1, 0.2, 0.4, 0.6)]
    assert "Chosen by the best mean of what is scored. 40 % wrong: label smoothing 0." in output
    assert "Seed 100." in page


def ten_classes(each=30):
    labels = np.repeat(np.arange(10), each).astype("int32")
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 4, 4, 1), "uint8")
    part = images, labels
    return lgg.datasets.Arrays(train=part, validation=part, test=part, classes=10)


def test_classes_that_are_kept_out():
    import imperfect_labels as example

    changed = example.without_some_classes(ten_classes(), np.random.default_rng(3))
    shown, hidden = (set(part[1]) for part in (changed.train, changed.test))
    assert len(hidden) == 3
    assert shown == set(range(10)) - hidden
    assert set(changed.validation[1]) == hidden


def test_labels_that_are_wrong():
    import imperfect_labels as example

    arrays = ten_classes(each=300)
    images, labels = example.with_wrong_labels(0.4)(arrays, np.random.default_rng(0)).train
    np.testing.assert_array_equal(images, arrays.train[0])
    is_wrong = labels != arrays.train[1]
    assert 0.37 < is_wrong.mean() < 0.43, "none is replaced by itself"
    assert set(labels[is_wrong]) == set(range(10))


def test_few_labels_make_up_half_of_what_is_shown():
    import imperfect_labels as example

    arrays = ten_classes()
    images, labels = example.with_few_labels(arrays, np.random.default_rng(0)).train
    known = labels != example.UNKNOWN
    assert known.mean() == 0.5
    assert len(np.unique(images[known], axis=0)) == 10 * example.LABELLED
    of = {image.tobytes(): label for image, label in zip(*arrays.train, strict=True)}
    assert all(of[i.tobytes()] == c for i, c in zip(images[known], labels[known], strict=True))
    assert not {i.tobytes() for i in images[known]} & {i.tobytes() for i in images[~known]}


def test_cross_entropy_of_the_labels_that_are_known():
    import imperfect_labels as example

    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    found = float(example.SmoothedCrossEntropy(3, 0.3)(np.array([2, -1, 0, -1]), logits))
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = 0.7 * np.eye(3)[[2, 0]] + 0.1
    np.testing.assert_allclose(found, -(wanted * log[[0, 2]]).sum() / 2, rtol=1e-5)
    assert float(example.SmoothedCrossEntropy(3, 0.3)(np.full(4, -1), logits)) == 0


def test_supervised_contrastive_loss():
    import imperfect_labels as example

    z = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = np.array([0, 0, 1, 0, -1])
    expected = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        total = np.log(sum(np.exp(z[i] @ z[j] / 0.5) for j in others))
        same = [j for j in others if labels[j] == labels[i] != -1]
        terms = [total - z[i] @ z[j] / 0.5 for j in same]
        expected.append(np.mean(terms) if terms else 0)
    found = float(example.SupervisedContrastive(0.5)(labels, z))
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-4)


@ON_TENSORFLOW
def test_other_students(run):
    import other_students as example

    values, page, output = run(example, "--cases", *example.CASES, "--epochs", "4")
    for case in example.CASES:
        found = values.xs(f"{case}: accuracy", level="metric")
        assert found.median() > 50
        assert not set(example.CASES[case].cannot) & set(found.index)
        assert f"{case}: GKD against student alone: accuracy " in output
    assert values["teacher", "pruned: accuracy"] > 85
    assert "teacher" not in values.xs("other classes: accuracy", level="metric")
    assert "Weights: other classes: logits, second head 0.5" in page


def test_classes_of_teacher_and_student():
    import other_students as example

    own, others = example.halves(ten_classes(), 0)
    assert len(set(own.train[1])) == 5
    assert not set(own.train[1]) & set(others.train[1])
    assert set(own.test[1]) == set(own.train[1])


def test_a_pruned_copy_stays_sparse():
    import other_students as example

    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(8, 5)(inputs)
    teacher = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(hidden)))
    student = example.pruned(None, None, teacher)
    x, y = np.random.default_rng(0).random((16, 8, 8, 1)), np.arange(16) % 2
    student.compile("sgd", common.cross_entropy())
    student.fit(x, y, verbose=0)
    kernel, given = (model.layers[1].get_weights()[0] for model in (student, teacher))
    assert np.mean(kernel != 0) == 0.05
    largest = np.abs(given) >= np.quantile(np.abs(given), 0.95)
    np.testing.assert_array_equal(kernel != 0, largest)
    assert not np.array_equal(kernel[largest], given[largest]), "these are trained"


def test_a_quantised_copy_has_three_levels():
    import other_students as example

    inputs = keras.Input((4, 4, 3))
    teacher = keras.Model(inputs, keras.layers.Conv2D(2, 3, name="conv")(inputs))
    student = example.quantised(None, None, teacher)
    kernel = teacher.get_layer("conv").get_weights()[0]
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    rounded = largest * np.round(kernel / largest)
    teacher.get_layer("conv").set_weights([rounded, np.zeros(2)])
    x = np.random.default_rng(0).random((2, 4, 4, 3), "float32")
    np.testing.assert_allclose(common.outputs(student, x), common.outputs(teacher, x), atol=1e-5)


def test_profiles_of_images():
    import other_students as example

    image = np.arange(6, dtype="float32").reshape(1, 2, 3, 1)
    found = keras.ops.convert_to_numpy(example.Profiles()(image))
    np.testing.assert_allclose(found, [[1.5, 2.5, 3.5, 1, 4]])


@ON_TENSORFLOW
def test_a_training_goes_on_where_it_was_stopped(tmp_path):
    """In the same epoch; and one that had ended is read."""

    def train(*options, epochs_until_it_stops=None):
        class Stop(keras.callbacks.Callback):
            seen = 0

            def on_epoch_begin(self, epoch, logs=None):
                if self.seen == epochs_until_it_stops:
                    raise KeyboardInterrupt
                self.seen += 1

        args = robustness.parse(["--quick", "--resume", str(tmp_path), *options])
        data = common.pipelines(common.load(args), args, 0)
        keras.utils.set_random_seed(0)
        network = networks.small_cnn(data.shape, 10, width=2)
        stop = Stop()
        options = {"seed": 0, "label": "plain", "callbacks": [stop]}
        try:
            common.fit(network, common.cross_entropy(), data, args, **options)
        except KeyboardInterrupt:
            return stop.seen, None
        return stop.seen, network.get_weights()

    import robustness

    assert train("--epochs", "3", epochs_until_it_stops=2) == (2, None)
    seen, weights = train("--epochs", "3")
    assert seen == 1
    seen, again = train("--epochs", "3", "--output", "elsewhere", "--seeds", "5")
    assert seen == 0
    for one, other in zip(weights, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert train("--epochs", "2")[0] == 2, "another training"


@ON_TENSORFLOW
def test_fragility(run):
    import fragility as example

    settings = ["base", "GroupNormalization"]
    values, page, output = run(example, "--width", "2", "--settings", *settings)
    assert "**Plain training, accuracy in %**" in page
    assert "**relative, less plain training, points**" in page
    assert "base: relative against plain: clean " in output
    frame = values.reset_index()
    slopes = frame.loc[frame["metric"] == example.SLOPE, "value"]
    assert len(slopes) == 4
    assert (slopes > 0).all()


@ON_TENSORFLOW
def test_the_slope_of_a_margin():
    """Of a linear network: the difference of the weights of two classes."""
    import fragility as example

    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    weights = np.array([[1.0, 0.0, 4.0], [0.0, 2.0, 4.0]])
    model.set_weights([weights, np.array([0.0, 0.0, -100.0])])
    images, labels = np.tile([[3.0, 1.0]], (10, 1)).astype("float32"), np.zeros(10, int)
    margin, slope = example.margins(model, images, labels)
    np.testing.assert_allclose(margin, 3 - 2, rtol=1e-5)
    np.testing.assert_allclose(slope, np.sqrt(1 + 4), rtol=1e-5)


def test_a_rate_that_does_not_end_at_0():
    rates = [
        float(common.WarmCosine(0.1, 100, ends_at)(s)) for ends_at in (0, 0.3) for s in (10, 110)
    ]
    np.testing.assert_allclose(rates, [0.1, 0, 0.1, 0.03], atol=1e-6)
