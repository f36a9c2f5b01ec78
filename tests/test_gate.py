"""Hostile values in each array argument of each public function: a result, or the house form."""

import inspect

import keras
import numpy as np
import pytest
from autodiff import BACKEND
from public import PUBLIC

import keras_lgg as lgg
from keras_lgg import graphs, losses, manifolds, plots, relative, robustness

RNG = np.random.default_rng(0)
N = 6
X = RNG.random((N, 4)).astype("float32")
OTHER = RNG.random((N, 3)).astype("float32")
LABELS = np.arange(N) % 2
SQUARE = X.astype("float64") @ X.T.astype("float64")
DISTANCES = (1 - np.eye(N)) * 0.5
LATENTS = RNG.random((N, 3, 3, 2)).astype("float32")
SPACES = {"source": X, "target": OTHER}


def hostile():
    """What may stand where an array should; some of it can be meant."""
    return {
        "None": None,
        "a string": "cat",
        "bytes": b"cat",
        "an object": object(),
        "a function": len,
        "a class": int,
        "a dict": {},
        "a set": {1, 2},
        "a generator": (i for i in range(3)),
        "an empty list": [],
        "a ragged list": [[1, 2], [3]],
        "strings": [["a", "b"]] * N,
        "a list of None": [None] * N,
        "objects": np.array([object()] * N),
        "records": np.zeros(N, [("a", "f4")]),
        "dates": np.array(["2020-01-01"] * N, "datetime64[D]"),
        "complex": np.ones((N, 4), "complex64"),
        "symbolic": keras.KerasTensor((N, 4)),
        "a number": 3.0,
        "true": True,
        "no axis": np.array(1.0),
        "no sample": np.zeros((0, 4), "float32"),
        "no feature": np.zeros((N, 0), "float32"),
        "lists": X.tolist(),
        "huge numbers": [10**9] * N,
        "larger numbers": [[10**30] * 4] * N,
        **hostile_tensors(),
    }


def hostile_tensors():
    if BACKEND != "tensorflow":
        return {}
    import tensorflow as tf

    return {
        "a ragged tensor": tf.ragged.constant([[1.0, 2.0], [3.0]]),
        "a sparse tensor": tf.sparse.from_dense(np.eye(N, dtype="float32")),
        "a tensor of strings": tf.constant(["a"] * N),
    }


def classifier():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def in_list(function, index, **options):
    """A function of representations, as one of the first of them."""
    layers = [X, OTHER]

    def call(x, **more):
        return function([*layers[:index], x, *layers[index + 1 :]], **more, **options)

    return call


# By name: a function, its array arguments, and its other arguments.
CALLS = {
    "similarity": (graphs.similarity, {"x": X}, {}),
    "pairwise_distances": (graphs.pairwise_distances, {"x": X}, {}),
    "knn_mask": (graphs.knn_mask, {"adjacency": SQUARE}, {"k": 2}),
    "normalize_degrees": (graphs.normalize_degrees, {"adjacency": SQUARE}, {}),
    "laplacian": (graphs.laplacian, {"adjacency": SQUARE}, {}),
    "latent_geometry_graph": (
        graphs.latent_geometry_graph,
        {"x": X, "labels": LABELS, "mask": SQUARE > 0.5},
        {"pairs": "intra"},
    ),
    "smoothness": (graphs.smoothness, {"adjacency": SQUARE, "signal": OTHER}, {}),
    "label_smoothness": (graphs.label_smoothness, {"x": X, "labels": LABELS}, {}),
    "label_smoothness of a signal": (
        graphs.label_smoothness,
        {"x": X, "labels": OTHER},
        {"continuous": True},
    ),
    "graph_distillation": (
        losses.graph_distillation,
        {"teacher": OTHER, "student": X, "labels": LABELS},
        {"pairs": "inter"},
    ),
    "relational_distance": (losses.relational_distance, {"teacher": OTHER, "student": X}, {}),
    "similarity_preserving": (
        losses.similarity_preserving,
        {"teacher": OTHER, "student": X},
        {},
    ),
    "probabilistic_transfer": (
        losses.probabilistic_transfer,
        {"teacher": OTHER, "student": X},
        {},
    ),
    "correlation_congruence": (
        losses.correlation_congruence,
        {"teacher": OTHER, "student": X},
        {"gamma": 0.5},
    ),
    "relational_angle": (losses.relational_angle, {"teacher": OTHER, "student": X}, {}),
    "graph_smoothness": (losses.graph_smoothness, {"labels": LABELS, "embeddings": X}, {}),
    "target_graph": (
        losses.target_graph,
        {"target": LABELS, "embeddings": X, "affinity": np.eye(2)},
        {},
    ),
    "target_graph of a graph": (
        losses.target_graph,
        {"target": SQUARE, "embeddings": X},
        {"form": "graph"},
    ),
    "smoothness_variation": (
        losses.smoothness_variation,
        {"representations": [X, OTHER], "labels": LABELS},
        {},
    ),
    "graph_variation": (losses.graph_variation, {"representations": [X, OTHER]}, {}),
    "graph_variation, in the list": (in_list(losses.graph_variation, 1), {"x": OTHER}, {}),
    "smoothness_variation, in the list": (
        in_list(losses.smoothness_variation, 0, labels=LABELS),
        {"x": X},
        {},
    ),
    "GraphSmoothness": (
        losses.GraphSmoothness(),
        {"y_true": LABELS, "y_pred": X, "sample_weight": np.ones(N)},
        {},
    ),
    "TargetGraph": (losses.TargetGraph(), {"y_true": LABELS, "y_pred": X}, {}),
    "GraphDistillation": (losses.GraphDistillation(), {"y_true": OTHER, "y_pred": X}, {}),
    "GraphDistillation of pairs": (
        lambda teacher, labels, student: losses.GraphDistillation(pairs="intra")(
            (teacher, labels), student
        ),
        {"teacher": OTHER, "labels": LABELS, "student": X},
        {},
    ),
    "RelationalDistance": (losses.RelationalDistance(), {"y_true": OTHER, "y_pred": X}, {}),
    "RelationalAngle": (losses.RelationalAngle(), {"y_true": OTHER, "y_pred": X}, {}),
    "SimilarityPreserving": (losses.SimilarityPreserving(), {"y_true": OTHER, "y_pred": X}, {}),
    "ProbabilisticTransfer": (losses.ProbabilisticTransfer(), {"y_true": OTHER, "y_pred": X}, {}),
    "CorrelationCongruence": (losses.CorrelationCongruence(), {"y_true": OTHER, "y_pred": X}, {}),
    "SmoothnessVariation": (
        losses.SmoothnessVariation(),
        {"y_true": LABELS, "y_pred": [X, OTHER]},
        {},
    ),
    "GraphVariation": (losses.GraphVariation(), {"representations": [X, OTHER]}, {}),
    "relative_projection": (relative.relative_projection, {"x": X, "anchors": X[:3]}, {}),
    "anchor_statistics": (relative.anchor_statistics, {"anchors": X[:3]}, {}),
    "quantize": (relative.quantize, {"codes": X}, {"bin_size": 0.1}),
    "class_codes": (relative.class_codes, {"codes": X, "anchor_labels": np.arange(4) % 2}, {}),
    "densification_loss": (relative.densification_loss, {"x": X, "labels": LABELS}, {}),
    "DensificationLoss": (relative.DensificationLoss(), {"y_true": LABELS, "y_pred": X}, {}),
    "linear_cka": (relative.linear_cka, {"a": X, "b": OTHER}, {}),
    "debiased_cka": (relative.debiased_cka, {"a": X, "b": OTHER}, {}),
    "minibatch_cka": (relative.minibatch_cka, {"a": X, "b": OTHER}, {}),
    "rbf_cka": (relative.rbf_cka, {"a": X, "b": OTHER}, {}),
    "svcca": (relative.svcca, {"a": OTHER, "b": OTHER[::-1]}, {}),
    "pwcca": (relative.pwcca, {"a": OTHER, "b": OTHER[::-1]}, {}),
    "rsa": (relative.rsa, {"a": X, "b": OTHER}, {}),
    "procrustes_distance": (relative.procrustes_distance, {"a": X, "b": OTHER}, {}),
    "neighbour_jaccard": (relative.neighbour_jaccard, {"a": X, "b": OTHER}, {"k": 2}),
    "compare_spaces": (relative.compare_spaces, {"a": X, "b": X[::-1]}, {"k": 2}),
    "select_anchors": (
        relative.select_anchors,
        {"x": X, "labels": LABELS},
        {"k": 2, "method": "stratified"},
    ),
    "Procrustes": (lambda **spaces: relative.Procrustes().fit(**spaces), SPACES, {}),
    "LeastSquares": (lambda **spaces: relative.LeastSquares().fit(**spaces), SPACES, {}),
    "Affine": (lambda **spaces: relative.Affine().fit(**spaces), SPACES, {}),
    "InverseRelative": (lambda **spaces: relative.InverseRelative().fit(**spaces), SPACES, {}),
    "bonnabel_sepulchre_distance": (
        manifolds.bonnabel_sepulchre_distance,
        {"a": SQUARE, "b": SQUARE},
        {},
    ),
    "embedded_distance": (manifolds.embedded_distance, {"a": SQUARE, "b": SQUARE}, {}),
    "hilbert_map": (manifolds.hilbert_map, {"kernel": SQUARE}, {}),
    "largest_ranks": (manifolds.largest_ranks, {"shape": (3, 3, 2)}, {}),
    "mode_covariance": (manifolds.mode_covariance, {"latents": LATENTS}, {"mode": 1}),
    "mode_ranks": (manifolds.mode_ranks, {"latents": LATENTS}, {}),
    "principal_angles": (manifolds.principal_angles, {"a": X, "b": OTHER}, {}),
    "product_distances": (manifolds.product_distances, {"latents": LATENTS}, {}),
    "product_kernel": (manifolds.product_kernel, {"squared_distances": DISTANCES}, {}),
    "strata": (manifolds.strata, {"ranks": [[1, 2, 3]]}, {}),
    "subspace": (manifolds.subspace, {"points": X}, {}),
    "unfold": (manifolds.unfold, {"latents": LATENTS}, {"mode": 1}),
    "layer_graph": (plots.layer_graph, {"x": X, "labels": LABELS}, {}),
    "layer_graphs": (
        lambda x, labels: plots.layer_graphs({"a": x}, labels),
        {"x": X, "labels": LABELS},
        {},
    ),
    "similarity_matrix": (plots.similarity_matrix, {"x": X, "labels": LABELS}, {}),
    "plots.smoothness": (
        lambda values: plots.smoothness({"a": values}, ["h1", "h2", "h3", "h4"]),
        {"values": X},
        {},
    ),
    "plots.effects": (
        lambda values: plots.effects({"accuracy": {"plain": values}}),
        {"values": X[0]},
        {},
    ),
    "plots.neighbours": (
        lambda found, hits: plots.neighbours(found, np.ones((N, 4, 4)), hits=hits),
        {"found": np.array([[1, 2], [0, 2]]), "hits": np.array([[True, False]] * 2)},
        {},
    ),
    "plots.robustness": (
        lambda results, severities: plots.robustness({"a": results}, severities=severities),
        {"results": X, "severities": np.arange(4)},
        {},
    ),
    "input_gradient": (
        lambda x, labels: robustness.input_gradient(classifier(), x, labels),
        {"x": X, "labels": LABELS},
        {},
    ),
    "robustness.evaluate": (
        lambda x, labels: robustness.evaluate(
            classifier(), (x, labels), [robustness.GaussianNoise(snr=(20,))], progress=False
        ),
        {"x": X, "labels": LABELS},
        {},
    ),
}
# Functions of no array of their own: of models, of names, of tables.
OF_OTHER_THINGS = {
    "characterize", "build_cae", "build_dae", "build_vae", "with_fixed_anchors", "stitch",
    "stitching_matrix", "similarity_map", "representations", "trade_off", "common_corruptions",
    "mean_corruption_error", "ready_made_corruptions",
}  # fmt: skip


def test_all_functions_are_called():
    modules = (graphs, losses, relative, manifolds, plots, robustness)
    functions = {
        (module, name)
        for module in modules
        for name in PUBLIC[module]
        if inspect.isfunction(getattr(module, name))
    }
    called = {name.split(",")[0].split(" of ")[0].rpartition(".")[2] for name in CALLS}
    assert {name for _, name in functions} - called - OF_OTHER_THINGS == set()


def is_finite(result):
    for part in keras.tree.flatten(result):
        found = keras.ops.convert_to_numpy(part) if keras.ops.is_tensor(part) else np.asarray(part)
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            return False
    return True


@pytest.mark.parametrize(("function", "arrays", "options"), CALLS.values(), ids=CALLS)
def test_a_result_or_words_of_our_own(function, arrays, options):
    plots_close()
    assert is_finite(function(**arrays, **options))
    wrong = []
    for argument in arrays:
        for name, value in hostile().items():
            try:
                if not is_finite(function(**{**arrays, argument: value}, **options)):
                    wrong.append((argument, name, "a result that is not finite"))
            except ValueError as error:
                if "Expected" not in str(error) or "Received" not in str(error):
                    wrong.append((argument, name, str(error)))
            except Exception as error:
                wrong.append((argument, name, f"{type(error).__name__}: {error}"))
    plots_close()
    assert not wrong, "\n".join(map(str, wrong))


def plots_close():
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.parametrize("value", ["cat", np.ones(2), object(), -1, float("nan"), True, [1]])
def test_the_weight_of_a_penalty(value):
    for build in (lgg.Penalty, lgg.layers.GeometryPenalty):
        with pytest.raises(ValueError, match=r"`weight`.*Expected.*Received"):
            build(losses.GraphVariation(), weight=value)
    with pytest.raises(ValueError, match=r"`weight`.*Expected.*Received"):
        lgg.Penalty(losses.GraphVariation(), weight=keras.ops.ones((2,)))
