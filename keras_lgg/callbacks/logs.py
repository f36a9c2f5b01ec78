"""Where the values of a training are written, beside the logs of Keras."""

import contextlib
import csv
import io
import os
import pathlib
from collections.abc import Mapping

from keras_lgg import checks, files
from keras_lgg.types import PathLike

FIRST = "cka_first"  # the quantity that is unknown to a training that resumes at a later epoch


class CsvLog:
    """A CSV file with a row per epoch, which a training that begins at a later epoch continues.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: PathLike):
        self.path = pathlib.Path(path)

    def begin(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the file up to this epoch: from scratch, or with the rows that it has."""
        self._header, self._rows = ["epoch", *values], []
        if epoch > 0 and self.path.exists():
            self._header, rows = self._read()
            self._rows = [row for row in rows if int(row["epoch"]) <= epoch]
        if not self._rows or int(self._rows[-1]["epoch"]) < epoch:
            self._rows.append({"epoch": epoch, **values})
        self._write()

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        self._rows.append({"epoch": epoch, **values})
        self._write()

    def close(self) -> None:
        """Nothing is open between two rows."""

    def _write(self):
        """Write the whole file, so that nobody ever reads half a row."""
        with files.beside(self.path) as unfinished, open(unfinished, "w", newline="") as file:
            writer = csv.DictWriter(file, self._header)
            writer.writeheader()
            writer.writerows(self._rows)

    def _read(self):
        """The header and the rows of the file, as an earlier training left it."""
        text = self.path.read_bytes().decode(errors="replace")
        # Version 0.1.0 appended its rows, so that a kill could cut the last one off.
        whole, _, _ = text.rpartition("\n")
        reader = csv.DictReader(io.StringIO(whole), restkey="")
        header, rows = self._checked(reader.fieldnames or []), list(reader)
        if rows and None in rows[-1].values():
            rows.pop()
        last = -1
        for row in rows:
            if not _is_row(row) or int(row["epoch"]) <= last:
                raise ValueError(
                    f"The file '{self.path}' cannot be gone on with. Expected rows of an epoch, "
                    f"each later than the one before, and {len(header) - 1} numbers. Received: "
                    f"{','.join(map(str, row.values()))!r}. Mend or delete the file, or give "
                    "another path in `csv`."
                )
            last = int(row["epoch"])
        return header, rows

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


def _is_row(row):
    """Whether a row has its epoch and, in each other column, a number or nothing."""
    epoch, *values = row.values()
    try:
        for value in values:
            float(value or "nan")
    except (TypeError, ValueError):  # a list of more values than there are columns, or no numbers
        return False
    return None not in row.values() and epoch.isdecimal()


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
        # Keras's TensorBoard callback may have switched recording off between its batches. What is
        # written is on disk at the end of the block.
        with self._writer.as_default(), self._tf.summary.record_if(True):
            yield
