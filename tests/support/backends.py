"""What a backend cannot do: the reasons of skipped tests, and of the table in docs/backends.md.

python tests/support/backends.py    # prints the table
"""

import keras
import pytest
from autodiff import ALL_MODES, MODES, marked

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
NO_XLA = "Keras takes torch.compile, which gives the same numbers after a minute: not in the suite"
ONE_DEVICE = "Keras 3 trains on one device with PyTorch"
# By feature: the backends without it, and why.
LIMITS = {
    "every loss, layer, model and callback": {},
    "float64 representations": {
        "torch": "Keras's own operations round float64 to float32 on PyTorch; so does the package"
    },
    "`jit_compile=True`": {"torch": NO_XLA},
    "`steps_per_execution`": {"torch": "Keras refuses more than one step an execution on PyTorch"},
    "`export` to SavedModel and ONNX": {
        "jax": "Of Keras's exports, those from TensorFlow are tested",
        "torch": "Of Keras's exports, those from TensorFlow are tested",
    },
    "texts as inputs of an encoder": {
        "jax": "JAX has no strings: a tokenizer stands before the model there",
        "torch": "PyTorch has no strings: a tokenizer stands before the model there",
    },
    "several devices, `tf.distribute.MirroredStrategy`": {
        "jax": "It is a strategy of TensorFlow; on JAX there is keras.distribution",
        "torch": ONE_DEVICE,
    },
    "several devices, `keras.distribution`": {
        "tensorflow": "Keras distributes on JAX alone; on TensorFlow there is MirroredStrategy",
        "torch": ONE_DEVICE,
    },
    "several processes, `fit`": {
        "tensorflow": "Keras 3 does not fit under MultiWorkerMirroredStrategy "
        "(keras-team/keras#20585); lgg.distribute.fit does",
        "torch": ONE_DEVICE,
    },
    "batches that replicas share unevenly": {
        "jax": "Under keras.distribution, batches must split evenly",
        "torch": ONE_DEVICE,
    },
}


def needs(feature):
    """A mark that skips a test where the backend does not have a feature."""
    reason = LIMITS[feature].get(keras.backend.backend())
    return pytest.mark.skipif(reason is not None, reason=str(reason))


FLOAT64 = needs("float64 representations")
# Dtypes with the modes of `autodiff`. One shows float64; an open batch size has tests of its own.
DTYPES_AND_MODES = [
    *[
        pytest.param("float32", *mode.values, marks=mode.marks)
        for mode in ALL_MODES
        if mode.values != ("graph",)
    ],
    *[
        pytest.param("float64", *mode.values, marks=[FLOAT64, *mode.marks])
        for mode in marked(MODES[-1:])
    ],
]


def table():
    """The features by backends, in Markdown; reasons as footnotes."""
    reasons = []
    lines = [
        "| | " + " | ".join(BACKENDS.values()) + " |",
        "| --- " * (1 + len(BACKENDS)) + "|",
    ]
    for feature, limits in LIMITS.items():
        cells = []
        for backend in BACKENDS:
            reason = limits.get(backend)
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append("yes" if reason is None else f"({reasons.index(reason) + 1})")
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    notes = [f"{i}. {reason}." for i, reason in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *notes])


if __name__ == "__main__":
    print(table())
