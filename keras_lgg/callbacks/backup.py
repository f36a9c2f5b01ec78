"""A callback that lets a killed training go on where it was."""

import pathlib
import shutil
import warnings
from typing import Any

import keras
import numpy as np

from keras_lgg import files
from keras_lgg.types import PathLike

WEIGHTS, SEEDS = "model.weights.h5", "seeds.npz"  # the files of a backup
KEPT = 2  # backups, so that there is another one if the last is damaged


class AtomicBackup(keras.callbacks.Callback):
    """Lets a killed training go on from its last completed epoch, whenever it was killed.

    It saves the weights, the optimizer and the epoch at the end of each epoch, as
    `keras.callbacks.BackupAndRestore` does, restores them when ``fit`` begins, and closes two gaps
    of Keras 3.15. Keras writes the weights and then, into another file, the epoch: a process killed
    in between trains one epoch too many, and one killed while it writes cannot go on. Here, a
    single rename puts a backup in place. And Keras does not save the seeds of dropout and other
    random layers: here, they go on where they were.

    The backups of the last two epochs are kept, with checksums. If the last one has changed since
    it was written, a warning says so, and the training goes on from the one before.

    The final weights are those of an uninterrupted training if an epoch sees the same batches
    whatever came before it, and the operations are deterministic
    (``tf.config.experimental.enable_op_determinism()``).

    Args:
        backup_dir: Folder of the backups; it is removed at the end of the training.

    Raises:
        ValueError: In ``fit``, if there are backups and all of them have changed since they were
            written.

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
        latest = self._latest_whole()
        if latest is None:
            return
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.model.load_weights(latest / WEIGHTS)
        with np.load(latest / SEEDS) as seeds:
            for variable, value in zip(self._seeds(), seeds.values(), strict=True):
                variable.assign(value)
        # Tells fit() where to begin, as Keras's own callback does.
        self.model._initial_epoch = int(latest.name)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        with files.beside(self.backup_dir / f"{epoch + 1:06}") as unfinished:
            unfinished.mkdir()
            self.model.save_weights(unfinished / WEIGHTS)
            np.savez(unfinished / SEEDS, *map(keras.ops.convert_to_numpy, self._seeds()))
            files.write_manifest(unfinished, {"epoch": epoch + 1})
        for path in self._backups()[KEPT:]:
            shutil.rmtree(path)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        shutil.rmtree(self.backup_dir, ignore_errors=True)

    def _latest_whole(self):
        """The last undamaged backup; damaged ones after it are removed."""
        damaged, reasons = [], []
        for path in self._backups():
            try:
                files.checked_facts(path, "The backup", "")
            except ValueError as reason:
                damaged.append(path)
                reasons.append(str(reason).strip())
                continue
            if damaged:
                warnings.warn(
                    f"{' '.join(reasons)} The training goes on from the epoch before, '{path}'.",
                    stacklevel=2,
                )
            for later in damaged:  # they would be in the way of new ones
                shutil.rmtree(later)
            return path
        if damaged:
            raise ValueError(
                f"The training cannot go on from '{self.backup_dir}': no backup is whole. "
                f"{' '.join(reasons)} Delete the folder to begin anew. If you trust the weights "
                f"nevertheless, as of a backup by version 0.1.0, which has no checksums, write "
                f"model.load_weights('{damaged[0] / WEIGHTS}')."
            )
        return None

    def _backups(self):
        """The folders of the backups, the latest first."""
        found = (path for path in self.backup_dir.glob("*") if path.name.isdigit())
        return sorted(found, key=lambda path: int(path.name), reverse=True)

    def _seeds(self):
        return [v for v in self.model.variables if v.path.endswith("seed_generator_state")]
