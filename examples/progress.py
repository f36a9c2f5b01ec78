"""Progress of an example: one line on a terminal; in a log, one line for each training."""

import sys
import time

import keras

COLUMNS = 79


class Progress(keras.callbacks.Callback):
    """The callback of all trainings of a run.

    Where somebody looks, one line is written over and over: which training it is, the seconds
    since the start, what is trained and, where there is room, the epoch and what it logged. Where
    the output goes into a file, each training leaves a line at its end, with its last logs.

    Args:
        total: Number of trainings, where it is known; it may be set later.
    """

    def __init__(self, total=None):
        super().__init__()
        self.total, self.is_log = total, not sys.stdout.isatty()
        self.count, self.seed = 0, None
        self._label, self._start = "", time.perf_counter()

    def training(self, label):
        """Itself, for the training that comes next."""
        self._label = label
        return self

    def say(self, label):
        """What is done next; a training that follows is called by it, too."""
        self._label = label
        if self.is_log:
            print("  ".join([*self._of_seed(), label]), flush=True)
        else:
            self._show([*self._of_seed(), label])

    def clear(self):
        """Leave an empty line to print on."""
        if not self.is_log:
            print(f"\r{'':{COLUMNS}}\r", end="", flush=True)

    def on_train_begin(self, logs=None):
        self.count += 1
        self._epochs, self._logs, self._begin = 0, {}, time.perf_counter()
        self._show_training()

    def on_epoch_end(self, epoch, logs=None):
        self._epochs, self._logs = epoch + 1, logs or {}
        self._show_training()

    def on_train_end(self, logs=None):
        if self.is_log:
            seconds = time.perf_counter() - self._begin
            reached = f"{self._epochs} epochs  {seconds:.1f} s", *_texts(self._logs)
            print("  ".join([*self._place(), *reached]), flush=True)

    def _show_training(self):
        epoch = f"epoch {self._epochs}/{self.params['epochs']}"
        self._show([*self._place(), epoch, *_texts(self._logs)])

    def _place(self):
        of = f" of {self.total}" if self.total else ""
        return [f"training {self.count}{of}", *self._of_seed(), self._label]

    def _of_seed(self):
        return [] if self.seed is None else [f"seed {self.seed}"]

    def _show(self, parts):
        """As many of the parts as a line has room for."""
        if self.is_log:
            return
        parts = [f"{time.perf_counter() - self._start:4.0f} s", *parts]
        while len("  ".join(parts)) > COLUMNS and len(parts) > 1:
            parts.pop()
        print(f"\r{'  '.join(parts)[:COLUMNS]:{COLUMNS}}", end="", flush=True)


def _texts(logs):
    return [f"{name} {value:.4g}" for name, value in logs.items()]
