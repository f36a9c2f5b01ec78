"""What a user imports: the names, what importing costs, and that everything is documented."""

import inspect
import json
import os
import pathlib
import subprocess
import sys
import types
import typing

import backends
import keras
import pytest
from autodiff import BACKEND

import keras_lgg as lgg

ROOT = pathlib.Path(__file__).parent.parent
PUBLIC = {
    lgg.callbacks: [
        "AtomicBackup",
        "GeometryGuard",
        "GeometryMonitor",
        "GraphSnapshot",
        "PenaltyWeightSchedule",
    ],
    lgg: ["Distiller", "GeometryModel", "Penalty", "teacher_cache"],
    lgg.constraints: ["Parseval"],
    lgg.datasets: [
        "Arrays",
        "BalancedBatches",
        "Pipelines",
        "arrays",
        "balanced_batches",
        "pipelines",
    ],
    lgg.graphs: [
        "knn_mask",
        "label_smoothness",
        "laplacian",
        "latent_geometry_graph",
        "normalize_degrees",
        "similarity",
        "smoothness",
    ],
    lgg.layers: [
        "GeometryPenalty",
        "RelativeRepresentation",
        "with_fixed_anchors",
        "without_penalties",
    ],
    lgg.losses: [
        "GeometryLoss",
        "GraphDistillation",
        "GraphSmoothness",
        "GraphVariation",
        "RelationalAngle",
        "RelationalDistance",
        "SmoothnessVariation",
        "TargetGraph",
        "graph_distillation",
        "graph_smoothness",
        "graph_variation",
        "relational_angle",
        "relational_distance",
        "smoothness_variation",
        "target_graph",
    ],
    lgg.manifolds: [
        "Corruption",
        "LatentManifold",
        "Level",
        "ManifoldReport",
        "Sampling",
        "SummedCrossentropy",
        "bonnabel_sepulchre_distance",
        "build_cae",
        "build_dae",
        "build_vae",
        "characterize",
        "embedded_distance",
        "hilbert_map",
        "largest_ranks",
        "mode_covariance",
        "mode_ranks",
        "principal_angles",
        "product_distances",
        "product_kernel",
        "strata",
        "subspace",
        "unfold",
    ],
    lgg.plots: [
        "layer_graph",
        "layer_graphs",
        "representations",
        "robustness",
        "similarity_matrix",
        "smoothness",
        "trade_off",
    ],
    lgg.relative: [
        "Affine",
        "DensificationLoss",
        "InverseRelative",
        "LeastSquares",
        "Procrustes",
        "StitchingReport",
        "anchor_statistics",
        "class_codes",
        "compare_spaces",
        "densification_loss",
        "linear_cka",
        "quantize",
        "relative_projection",
        "select_anchors",
        "stitch",
        "stitching_matrix",
    ],
    lgg.tuning: ["PenaltyHyperModel", "PenaltySearch", "search_penalty_weights"],
    lgg.robustness: [
        "ArtAttack",
        "CommonCorruption",
        "DroppedUnits",
        "FGSM",
        "GaussianNoise",
        "PGD",
        "QuantizedWeights",
        "ReadyMadeCorruption",
        "common_corruptions",
        "evaluate",
        "input_gradient",
        "mean_corruption_error",
        "ready_made_corruptions",
    ],
}
OBJECTS = [
    pytest.param(getattr(module, name), id=name)
    for module, names in PUBLIC.items()
    for name in names
]


@pytest.mark.parametrize("public", OBJECTS)
def test_is_documented(public):
    doc = inspect.getdoc(public)
    assert ">>>" in doc, "an example that runs"
    arguments = [
        name
        for name, parameter in inspect.signature(public).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = [name for name in arguments if f"{name}:" not in doc]
    assert not missing


@pytest.mark.parametrize("public", [p for p in OBJECTS if inspect.isfunction(p.values[0])])
def test_options_are_keyword_only(public):
    for parameter in inspect.signature(public).parameters.values():
        if parameter.default is not parameter.empty:
            assert parameter.kind is parameter.KEYWORD_ONLY


def hinted(public):
    """The functions behind a public name: itself or, of a class, what this package gives it."""
    if not inspect.isclass(public):
        return {public.__name__: public}
    found = {}
    for base in reversed(public.__mro__):
        for name, member in vars(base).items() if base.__module__.startswith("keras_lgg") else ():
            if not name.startswith("_") or name in ("__init__", "__call__", "__getitem__"):
                member = member.fget if isinstance(member, property) else member
                member = getattr(member, "__func__", member)
                if inspect.isfunction(member):
                    found[name] = member
    return found


def admits(hint, value):
    """Whether a type that is written as a hint has a value."""
    kind = typing.get_origin(hint) or hint
    if kind is typing.Any:
        return True
    if kind in (typing.Union, types.UnionType):
        return any(admits(each, value) for each in typing.get_args(hint))
    if kind is typing.Literal:
        return value in typing.get_args(hint)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


@pytest.mark.parametrize("public", OBJECTS)
def test_hints_are_complete_and_resolve(public):
    if inspect.isclass(public):
        typing.get_type_hints(public)
    for name, function in hinted(public).items():
        parameters = inspect.signature(function).parameters
        hints = typing.get_type_hints(function)
        missing = {*parameters, "return"} - {*hints, "self", "cls"}
        assert not missing, name
        for parameter in parameters.values():
            if parameter.default is not parameter.empty:
                assert admits(hints[parameter.name], parameter.default), (name, parameter)


def test_no_hint_is_lost_on_type_checkers():
    assert (pathlib.Path(lgg.__file__).parent / "py.typed").exists()


def is_saved(public):
    """Whether models hold it: not the tools around trained models."""
    tools = (
        lgg.datasets.__name__,
        lgg.callbacks.__name__,
        "keras_lgg.monitoring",
        "keras_lgg.weight_schedules",
        lgg.tuning.__name__,
        "keras_lgg.attacks",
        "keras_lgg.corruptions",
        "keras_lgg.manifold_report",
        "keras_lgg.stitching",
        "keras_lgg.translation",
        "robustness",
    )
    return inspect.isclass(public) and not public.__module__.endswith(tools)


@pytest.mark.parametrize("public", [p for p in OBJECTS if is_saved(p.values[0])])
def test_is_registered_under_the_package_name(public):
    if public is lgg.losses.GeometryLoss:
        pytest.skip("a base class, never saved itself")
    assert keras.saving.get_registered_name(public) == f"keras_lgg>{public.__name__}"


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_importing_loads_no_other_backend():
    code = (
        "import sys, json, keras; before = set(sys.modules); import keras_lgg;"
        "print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))"
    )
    keras_modules, ours = json.loads(run(code, KERAS_BACKEND=BACKEND))
    assert not {"tensorflow", "jax", "torch"} & {name.split(".")[0] for name in ours}
    if BACKEND != "tensorflow":
        assert "tensorflow" not in keras_modules


def test_importing_is_cheap():
    code = (  # the time of this process alone, whatever else the machine is doing
        "import time, keras; start = time.process_time(); import keras_lgg;"
        "print(time.process_time() - start)"
    )
    assert any(float(run(code)) < 0.1 for _ in range(5))  # machines are noisy


def test_the_support_table_is_made_of_the_skips():
    assert backends.table() in (ROOT / "docs" / "backends.md").read_text()
