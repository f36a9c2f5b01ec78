"""Files that earlier versions saved load, for ever, and go on as they were.

Each folder below `SAVED` is named after the version that wrote its files. Its `make.py` says how,
and what the keys in `arrays.npz` mean.
"""

import pathlib

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy

import keras_lgg as lgg

# JAX says so where it computes in float32 what was asked for in float64.
pytestmark = pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning")

SAVED = pathlib.Path(__file__).parent / "saved"
FILES = [
    pytest.param(path, id=f"{path.parent.name}-{path.stem}")
    for path in sorted(SAVED.glob("*/*.keras"))
]
EACH_FILE = pytest.mark.parametrize("path", FILES)

# What the files were made with, by the name of the file and of a penalty, a layer or, after
# "compiled", an output. Written out here, since a later version must not read it in its own way.
H1, H2 = "backbone/h1", "backbone/h2"
ALSO = {"dtype": "float64", "global_graph": False}
DISTILLER = {
    "graph_distillation": {
        "taps": [[H1, H1], [H2, H2]],
        "weight": 25.0,
        "loss": {"class": "GraphDistillation", "k": None, "power": 1, "pairs": "all"},
    },
    "balanced": {"taps": None, "weight": "balanced", "fraction": 0.2},
    "logits_distillation": {
        "weight": 0.5,
        "loss": {"class": "LogitsDistillation", "temperature": 2.0},
    },
    "feature_distillation": {
        "taps": None,
        "loss": {
            "class": "FeatureDistillation",
            "teacher_layer_name": "head",
            "student_layer_name": "head",
        },
    },
}
OPTIONS = {
    "geometry_fixed": {
        "smoothness_variation": {
            "taps": [H1, H2],
            "weight": pytest.approx(1e-3),
            "loss": {"class": "SmoothnessVariation", "power": 2},
        },
        "graph_smoothness": {"taps": None, "weight": pytest.approx(0.02)},
        "early_exit": {
            "taps": H2,
            "weight": 1.0,
            "loss": {"class": "SparseCategoricalCrossentropy", "from_logits": True},
        },
    },
    "geometry_balanced": {
        "graph_variation": {"taps": [H1, H2], "weight": "balanced", "fraction": 0.3},
        "graph_smoothness": {"taps": None, "weight": "balanced", "fraction": 0.1},
    },
    "geometry_labels": {"apart": {"taps": "h", "weight": pytest.approx(0.05), "labels": "kind"}},
    "distiller_with_teacher": DISTILLER,
    "distiller_without_teacher": DISTILLER,
    "losses_of_distillation": {
        "gkd": {
            "taps": [[H2, H2]],
            "loss": {
                "class": "GraphDistillation",
                "k": 3,
                "power": 2,
                "pairs": "inter",
                "num_classes": 3,
                "block_size": 9,
                "reduction": "sum_over_batch_size",
                "name": "gkd",
                **ALSO,
            },
        },
        "rkd_d": {
            "loss": {
                "class": "RelationalDistance",
                "block_size": 8,
                "reduction": "sum",
                "name": "rkd_d",
                **ALSO,
            }
        },
        "rkd_a": {
            "loss": {
                "class": "RelationalAngle",
                "arms": 4,
                "reduction": None,
                "name": "rkd_a",
                **ALSO,
            }
        },
    },
    "losses_on_labels": {
        "gsl": {
            "taps": H2,
            "loss": {
                "class": "GraphSmoothness",
                "alpha": 0.5,
                "k": 3,
                "block_size": 8,
                "reduction": "mean_with_sample_weight",
                "name": "gsl",
                **ALSO,
            },
        },
        "hierarchy": {
            "loss": {
                "class": "TargetGraph",
                "form": "labels",
                "affinity": [[1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.0]],
                "metric": "rbf",
                "alpha": 0.3,
                "num_classes": 3,
                "block_size": 9,
                "reduction": "mean",
                "name": "hierarchy",
                **ALSO,
            }
        },
        "dense": {
            "loss": {"class": "DensificationLoss", "beta": 2.0, "name": "dense", **ALSO},
        },
    },
    "losses_across_layers": {
        "laplacian": {
            "taps": [H1, H2, "head"],
            "loss": {
                "class": "SmoothnessVariation",
                "power": 2,
                "k": 3,
                "num_classes": 3,
                "relative": True,
                "block_size": 9,
                "name": "laplacian",
                **ALSO,
            },
        },
        "graphs": {
            "loss": {
                "class": "GraphVariation",
                "k": 3,
                "block_size": 8,
                "name": "graphs",
                **ALSO,
            }
        },
    },
    "losses_compiled": {
        "compiled": {
            "apart": {"class": "GraphSmoothness", "alpha": 2.0, "k": 4, "reduction": "sum"},
            "dense": {"class": "DensificationLoss", "beta": 0.5, "dtype": None},
        }
    },
    "layer_plain": {
        "plain": {
            "weight": pytest.approx(0.1),
            "loss": {"class": "GraphVariation", "k": 3},
        }
    },
    "layer_labels": {
        "fixed": {
            "weight": pytest.approx(0.2),
            "loss": {"class": "GraphSmoothness", "alpha": 0.5},
        },
        "balanced": {
            "weight": "balanced",
            "fraction": 0.3,
            "loss": {"class": "TargetGraph", "form": "labels", "num_classes": 3},
        },
    },
    "layer_graph": {
        "penalty": {
            "weight": 0.5,
            "loss": {
                "class": "TargetGraph",
                "form": "graph",
                "affinity": None,
                "metric": "exponential",
                "name": "wanted",
            },
        }
    },
    "relative_fixed": {
        "codes": {
            "encoder": None,
            "similarity": ["cosine", "lp"],
            "normalization": "standardize",
            "pool": "mean",
            "p": 3.0,
            "bin_size": 0.1,
            "quantization": "smooth_steps",
            "anchor_labels": [0, 1, 1, 0, 2, 2],
            "indices": [3, 1, 4, 5, 9, 2],
        }
    },
    "relative_stacked": {
        "codes": {
            "similarity": ["basis_change", "angular", "l1"],
            "normalization": "whiten",
            "pool": "stack",
        }
    },
    "relative_encoder": {
        "codes": {
            "encoder": {"class": "Sequential", "name": "backbone"},
            "similarity": ["euclidean", "inner"],
            "normalization": "center",
            "pool": "sum",
            "anchor_labels": [2, 1, 0, 0, 1, 2],
            "refresh_every": 3,
            "anchor_training": False,
        }
    },
    "relative_encoder_inherit": {
        "codes": {
            "similarity": "cosine",
            "bin_size": 0.05,
            "quantization": "ste_round",
            "refresh_every": 1,
            "anchor_training": "inherit",
        }
    },
    "relative_call": {
        "codes": {
            "similarity": "angular",
            "anchor_labels": [0, 0, 1, 1, 2, 2, 3, 3],
            "indices": [0, 1, 2, 3, 4, 5, 6, 7],
        }
    },
    "parseval": {"tight": {"kernel_constraint": {"class": "Parseval", "beta": 0.2}}},
    "cae": {"latent": {"use_bias": False, "activation": "relu"}},
    "dae": {
        "latent": {"use_bias": True, "activation": "tanh"},
        "corruption": {"stddev": 0.3, "seed": 1},
    },
    "vae": {
        "trunk": {"activation": "linear"},
        "sampling": {"beta": 0.5, "seed": 2},
        "compiled": {"class": "SummedCrossentropy"},
    },
}
RANDOM = {"vae"}  # these draw in inference
NOISY = {"dae", "vae"}  # and these in training


def load(path):
    model = keras.saving.load_model(path, safe_mode=True)
    # JAX compiles each operation of a step on its own, unless it compiles the step; TensorFlow and
    # PyTorch take less time for a step than for its compilation.
    model.jit_compile = BACKEND == "jax"
    model.run_eagerly = BACKEND != "jax"
    if isinstance(model, lgg.Distiller) and model.teacher is None:
        model.teacher = load(path.with_name("distiller_with_teacher.keras")).teacher
    return model


def stored(path, key):
    """The arrays of a file whose key is this, or begins with it, by what follows."""
    start = f"{path.stem}/{key}"
    with np.load(path.with_name("arrays.npz")) as arrays:
        return {name[len(start) :]: arrays[name] for name in arrays.files if name.startswith(start)}


def data(path):
    """Inputs and targets, in the structure that the model wants, and the size of the batch."""
    inputs = list(stored(path, "x").values())
    targets = stored(path, "y:") or stored(path, "y")[""]
    return inputs[0] if len(inputs) == 1 else inputs, targets, len(inputs[0])


def outputs(model, path):
    """What the model gives in inference; of the variational one, what does not depend on draws."""
    x, _, size = data(path)
    if path.stem not in RANDOM:
        return keras.tree.flatten(model.predict(x, size, verbose=0))
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")
    codes = encoder(x, training=False)
    return [to_numpy(part) for part in [*codes, decoder(codes[0], training=False)]]


def named(model):
    """Layers by their names, those inside of others, too; of the same name, penalties."""
    found = {layer.name: layer for layer in model._flatten_layers()}
    return found | {penalty.name: penalty for penalty in getattr(model, "penalties", [])}


def configs(model):
    """The configs of what has a name, and of the compiled losses."""
    found = {name: part.get_config() for name, part in named(model).items()}
    found["compiled"] = keras.tree.map_structure(keras.saving.serialize_keras_object, model.loss)
    return plain(found)


def plain(config):
    """A config in which an object is its class with its options, and a sequence is a list."""
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    if not isinstance(config, dict):
        return config
    if "class_name" in config:
        options = plain(config["config"])
        # Of a function, Keras saves the name alone.
        return {"class": config["class_name"], **options} if isinstance(options, dict) else options
    return {key: plain(value) for key, value in config.items()}


def assert_holds(found, expected, at):
    """That the expected options are there; others may have come since."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in found, at
            assert_holds(found[key], value, f"{at}: {key}")
    else:
        assert found == expected, at


def assert_same(found, expected, **tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **tolerance)


def weights(model, names):
    return [to_numpy(named(model)[name].weight) for name in names]


def test_files_are_there():
    assert len(list((SAVED / "0.1.0").glob("*.keras"))) == 21
    assert {path.stem for path in SAVED.glob("*/*.keras")} == set(OPTIONS)


@EACH_FILE
def test_loads_as_it_was(path):
    model = load(path)
    assert_holds(configs(model), OPTIONS[path.stem], path.stem)
    expected = stored(path, "output").values()
    assert_same(outputs(model, path), expected, rtol=1e-5, atol=1e-6)
    expected = stored(path, "weight:")
    assert_same(weights(model, expected), expected.values(), rtol=1e-6)
    assert int(model.optimizer.iterations) > 0
    slots = [v for v in model.optimizer.variables if len(v.shape) > 0]
    assert any(to_numpy(slot).any() for slot in slots)
    if path.stem in RANDOM:
        return
    *given, size = data(path)
    found = model.evaluate(*given, batch_size=size, verbose=0, return_dict=True)
    expected = stored(path, "evaluate:")
    assert set(expected) <= set(found)  # later versions log the values of layers, too
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


@EACH_FILE
def test_training_goes_on(path, tmp_path):
    model = load(path)
    before = [to_numpy(v).copy() for v in model.trainable_variables]
    *given, size = data(path)
    history = model.fit(*given, batch_size=size, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    after = [to_numpy(v) for v in model.trainable_variables]
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
    found = outputs(model, path)
    if path.stem not in NOISY:  # the state of the optimizer and of balanced weights was there
        assert_same(found, stored(path, "next_output").values(), rtol=1e-4, atol=1e-5)
        expected = stored(path, "next_weight:")
        assert_same(weights(model, expected), expected.values(), rtol=1e-4)
    model.save(tmp_path / "again.keras")
    again = outputs(load(tmp_path / "again.keras"), path)
    assert_same(again, found, rtol=1e-6, atol=1e-7)
