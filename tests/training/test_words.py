"""What losses, penalties and models say of themselves."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lgg as lgg
from keras_lgg import losses


def network(width=8):
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(width, name="h1"),
            layers.Dense(width, name="h2"),
            layers.Dense(3, name="out"),
        ],
        name=f"network_{width}",
    )


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (losses.GraphVariation(), "GraphVariation()"),
        (losses.GraphDistillation(k=None, power=2), "GraphDistillation(power=2)"),
        (
            losses.SmoothnessVariation(num_classes=3, relative=True),
            "SmoothnessVariation(num_classes=3, relative=True)",
        ),
        (losses.TargetGraph(affinity=np.eye(2)), "TargetGraph(affinity=[[1.0, 0.0], [0.0, 1.0]])"),
        (
            losses.CrossBatch(losses.GraphSmoothness(alpha=0.5), 64),
            "CrossBatch(GraphSmoothness(alpha=0.5), size=64)",
        ),
    ],
)
def test_a_loss(loss, said):
    assert repr(loss) == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Penalty(GraphSmoothness())"),
        ({"taps": "h1", "weight": 1e-5}, "Penalty(GraphSmoothness(), taps='h1', weight=1e-05)"),
        (
            {"weight": "balanced", "fraction": 2.0, "pool": "mean"},
            "Penalty(GraphSmoothness(), weight='balanced', fraction=2, pool='mean')",
        ),
    ],
)
def test_a_penalty(options, said):
    assert repr(lgg.Penalty(losses.GraphSmoothness(), **options)) == said


def said_of(model):
    printed = []
    model.summary(print_fn=lambda text, **_: printed.append(text))
    return "\n".join(printed)


def test_a_model():
    penalties = [
        lgg.Penalty(losses.GraphVariation(), "h*", 0.1),
        lgg.Penalty(losses.GraphSmoothness()),
    ]
    model = lgg.GeometryModel(network(), penalties, name="model")
    assert repr(model) == (
        "<GeometryModel 'model' of 'network_8': Penalty(GraphVariation(), taps=['h1', 'h2'], "
        "weight=0.1), Penalty(GraphSmoothness())>"
    )
    said = said_of(model)
    assert "network_8" in said
    assert said.endswith(
        "Penalty 'graph_variation': GraphVariation(), weight 0.1\n"
        "    h1  (None, 8)\n"
        "    h2  (None, 8)\n"
        "Penalty 'graph_smoothness': GraphSmoothness(), the default weight of the loss\n"
        "    the output  (None, 3)"
    )


def test_a_student():
    penalty = lgg.Penalty(losses.GraphDistillation(), [("h2", "h1")], "balanced")
    distiller = lgg.Distiller(network(16), network(), [penalty])
    assert said_of(distiller).endswith(
        "Penalty 'graph_distillation': GraphDistillation(), a balanced weight\n"
        "    h2 of the teacher  (None, 16)\n"
        "    h1 of the student  (None, 8)"
    )


def test_a_network_that_knows_no_shapes():
    base = keras.Sequential([layers.Dense(4, name="h1"), layers.Dense(3, name="h2")])
    model = lgg.GeometryModel(base, [lgg.Penalty(losses.GraphVariation(), ["h1", "h2"])])
    assert said_of(model).endswith("    h1\n    h2")
    model(np.zeros((2, 5), "float32"))
    assert said_of(model).endswith("    h1  (2, 4)\n    h2  (2, 3)")
