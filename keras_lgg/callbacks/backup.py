"""A callback with which a training goes on where it was killed."""

import pathlib
import shutil
from typing import Any

import keras
import numpy as np

from keras_lgg.types import PathLike

WEIGHTS, SEEDS = "model.weights.h5", "seeds.npz"  # of a backup


class AtomicBackup(keras.callbacks.Callback):
    """Lets a training that was killed go on from its last whole epoch, whenever the kill came.

    It does what `keras.callbacks.BackupAndRestore` does at the end of an epoch, and closes two gaps
    of Keras 3.15. Keras writes the weights and then, into another file, the epoch: a process
    killed in between trains one epoch too many, and one killed while it writes cannot go on. Here
    one rename puts a backup in place. And Keras does not keep the seeds of dropout and of other
    random layers: here they go on where they were.

    The weights are those of an uninterrupted training where an epoch sees the same batches
    whatever came before it, and the operations are deterministic
    (``tf.config.experimental.enable_op_determinism()``).

    Args:
        backup_dir: Folder of the backup; it is removed at the end of the training.

    Example:
        >>> import tempfile, keras, numpy as np, keras_lgg as lgg
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", "mse")
        >>> backup = lgg.callbacks.AtomicBackup(tempfile.mkdtemp() + "/backup")
        >>> _ = model.fit(np.ones((6, 4)), np.ones((6, 3)), epochs=2, verbose=0, callbacks=[backup])
    """

    def __init__(self, backup_dir: PathLike) -> None:
        super().__init__()
        self.backup_dir = pathlib.Path(backup_dir)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        latest = max(self._backups(), default=None)
        if latest is None:
            return
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.model.load_weights(latest / WEIGHTS)
        with np.load(latest / SEEDS) as seeds:
            for variable, value in zip(self._seeds(), seeds.values(), strict=True):
                variable.assign(value)
        # As Keras's own callback tells fit() where to begin.
        self.model._initial_epoch = int(latest.name)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        older = self._backups()
        unfinished = self.backup_dir / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        self.model.save_weights(unfinished / WEIGHTS)
        np.savez(unfinished / SEEDS, *map(keras.ops.convert_to_numpy, self._seeds()))
        unfinished.rename(self.backup_dir / f"{epoch + 1:06}")
        for path in older:
            shutil.rmtree(path)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        shutil.rmtree(self.backup_dir, ignore_errors=True)

    def _backups(self):
        return [path for path in self.backup_dir.glob("*") if path.name.isdigit()]

    def _seeds(self):
        return [v for v in self.model.variables if v.path.endswith("seed_generator_state")]
