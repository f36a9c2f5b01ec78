"""Where the values of a training are written to, beside the logs of Keras."""

import contextlib
import csv
import os
import pathlib
from collections.abc import Mapping

from keras_lgg import checks
from keras_lgg.types import PathLike

FIRST = "cka_first"  # the quantity that a training which goes on from a later epoch cannot know


class CsvLog:
    """A CSV file with a row an epoch, which a training that begins at a later epoch goes on with.

    Args:
        path: Of the file.
    """

    def __init__(self, path: PathLike):
        self.path = pathlib.Path(path)

    def begin(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the file up to this epoch: anew, or with the rows that it has."""
        self._header, rows = ["epoch", *values], []
        if epoch > 0 and self.path.exists():
            with open(self.path, newline="") as file:
                reader = csv.DictReader(file)
                self._header = self._checked(reader.fieldnames or [])
                # The last row is cut off where the training was killed while it wrote.
                rows = [row for row in reader if None not in row.values()]
            rows = [row for row in rows if int(row["epoch"]) <= epoch]
        if not rows or int(rows[-1]["epoch"]) < epoch:
            rows.append({"epoch": epoch, **values})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.unfinished")
        with open(unfinished, "w", newline="") as file:
            writer = csv.DictWriter(file, self._header)
            writer.writeheader()
            writer.writerows(rows)
        unfinished.replace(self.path)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self._header).writerow({"epoch": epoch, **values})

    def close(self) -> None:
        """Nothing is open between two rows."""

    def _checked(self, header):
        def lasting(names):
            return [name for name in names if not name.endswith(f"/{FIRST}")]

        if lasting(header) != lasting(self._header):
            raise ValueError(
                f"The file '{self.path}' cannot be gone on with. Expected the columns "
                f"{self._header}. Received: {header}. Give another path in `csv`, or the `taps` of "
                "the training before."
            )
        return header


class EventLog:
    """TensorBoard's event files in a folder, written with TensorFlow on every backend."""

    def __init__(self, log_dir: PathLike):
        checks.require("tensorboard", "tensorboard")  # which TensorFlow writes its summaries with
        import tensorflow as tf

        self._tf = tf
        self._writer = tf.summary.create_file_writer(os.fspath(log_dir))

    def begin(self, epoch: int, values: Mapping[str, float]) -> None:
        self.write(epoch, values)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        with self._recording():
            for name, value in values.items():
                self._tf.summary.scalar(name, value, step=epoch)

    def image(self, epoch: int, name: str, png: bytes) -> None:
        pixels = self._tf.io.decode_png(png, channels=3)
        with self._recording():
            self._tf.summary.image(name, pixels[None], step=epoch)

    def close(self) -> None:
        self._writer.close()

    @contextlib.contextmanager
    def _recording(self):
        # Keras's own TensorBoard callback may have switched recording off between its batches. What
        # is written is on disk at the end of the block.
        with self._writer.as_default(), self._tf.summary.record_if(True):
            yield
