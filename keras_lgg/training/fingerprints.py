"""Fingerprints of a teacher and of data: digests that are the same in every process."""

import hashlib
import json

import keras
import numpy as np

# Entries of a config on which predictions do not depend once the weights are there.
IDLE = {"trainable", "seed", "compile_config", "shared_object_id"}
IDLE_ENDINGS = ("_initializer", "_regularizer", "_constraint")
# Entries whose values name layers.
REFERENCES = {"name", "keras_history", "input_layers", "output_layers"}
PROBES = 8  # samples in a probe


def teacher_fingerprint(model):
    """A digest of a model's architecture and weights, independent of the names of its layers.

    If the model has no config, the classes of its layers stand for the architecture.
    """
    digest = _digest(json.dumps(_architecture(model), sort_keys=True).encode())
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def inputs_fingerprint(function, probe):
    """A digest of what a function makes of a probe; ``None`` if there is no function."""
    if function is None:
        return None
    made = function(keras.tree.map_structure(keras.ops.convert_to_tensor, probe))
    made = keras.tree.map_structure(keras.ops.convert_to_numpy, made)
    found = DataFingerprint()
    found.add((made,), sample_digests(made))
    return found.digest


class DataFingerprint:
    """A digest of samples, independent of their order and of the batches.

    Attributes:
        count: Number of samples.
        probe: A batch with the inputs of a few samples, always the same ones.
    """

    def __init__(self):
        self.count = 0
        self._structure = ""
        self._sum = 0
        self._chosen = []

    def add(self, batch, digests):
        """Add a batch, with the digests of its samples."""
        if not self.count:
            kinds = keras.tree.map_structure(lambda x: f"{x.dtype} {x.shape[1:]}", batch)
            self._structure = json.dumps(kinds, sort_keys=True)
        self.count += len(digests)
        # A sum does not depend on the order, and counts a sample that comes twice.
        self._sum += sum(int.from_bytes(digest) for digest in digests)
        least = sorted(range(len(digests)), key=digests.__getitem__)[:PROBES]
        found = [
            (digests[i], keras.tree.map_structure(lambda x, i=i: x[i], batch[0])) for i in least
        ]
        self._chosen = sorted([*self._chosen, *found], key=lambda each: each[0])[:PROBES]

    @property
    def probe(self):
        samples = [sample for _, sample in self._chosen]
        return keras.tree.map_structure(lambda *values: np.stack(values), *samples)

    @property
    def digest(self):
        return _digest(f"{self._structure} {self.count} {self._sum}".encode()).hexdigest()


def sample_digests(batch):
    """List of digests, one per sample with all that belongs to it."""
    arrays = [np.ascontiguousarray(x) for x in keras.tree.flatten(batch)]
    return [_of_sample(sample) for sample in zip(*arrays, strict=True)]


def _of_sample(arrays):
    digest = _digest()
    for array in arrays:
        # Texts are objects, and their bytes would be addresses.
        is_text = not hasattr(array, "dtype") or array.dtype.hasobject
        digest.update(repr(_listed(array)).encode() if is_text else array.tobytes())
    return digest.digest()


def _listed(array):
    return array.tolist() if hasattr(array, "tolist") else array


def _architecture(model):
    try:
        return _without_names(keras.saving.serialize_keras_object(model), {})
    except (NotImplementedError, TypeError, ValueError):  # how Keras says "no config"
        return [type(model).__name__, *(type(layer).__name__ for layer in model._flatten_layers())]


def _without_names(config, names, *, refers=False):
    """A config that names layers by their order, since Keras numbers its names."""
    if isinstance(config, dict):
        return {
            key: value  # whose name says what it does
            if key == "dtype"
            else _without_names(value, names, refers=refers or key in REFERENCES)
            for key, value in config.items()
            if key not in IDLE and not key.endswith(IDLE_ENDINGS)
        }
    if isinstance(config, list | tuple):
        return [_without_names(value, names, refers=refers) for value in config]
    if refers and isinstance(config, str):
        return names.setdefault(config, len(names))
    return config


def _digest(data=b""):
    return hashlib.blake2b(data, digest_size=16)
