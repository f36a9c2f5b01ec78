"""A callback that draws the graphs of the layers while a model trains."""

import io
import pathlib
from typing import Any

from keras_lgg import checks, files, plots
from keras_lgg.callbacks.probes import LayerWatcher, Taps
from keras_lgg.types import PathLike

DPI = 150


class GraphSnapshot(LayerWatcher):
    """Draws the latent geometry graphs of layers on a fixed batch, every so many epochs.

    The figures are those of `keras_lgg.plots.layer_graphs`: one before the training, as epoch 0,
    and one after every ``every`` epochs. The layers are asked as `GeometryMonitor` asks them.

    Args:
        x: The fixed batch: an array ``(n, ...)``, or a structure of such as the model takes. With
            some hundred samples the nodes of a graph can still be told apart.
        y: Its class labels: integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)``.
        taps: Names of layers; by default those of the model's penalties, see `GeometryMonitor`.
        folder: Folder of the figures, ``epoch_0000.png`` and so on.
        log_dir: Folder of TensorBoard's event files, where they are images of the name
            ``"latent_geometry_graphs"``.
        every: Number of epochs from one figure to the next.
        batch_size: Samples that the model sees at a time.
        pool: How what has positions is pooled, see `keras_lgg.Penalty`.
        **options: Options of `keras_lgg.plots.layer_graphs`, such as ``layout`` or ``k``.

    Raises:
        ValueError: If an argument is invalid, there is neither ``folder`` nor ``log_dir``, or in
            ``fit``, if a layer cannot be tapped or is not finite.
        ImportError: In ``fit``, if matplotlib is missing, or with ``log_dir`` TensorBoard.

    Example:
        >>> import pathlib, tempfile, keras, numpy as np, keras_lgg as lgg
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, name="h")])
        >>> model.compile("adam", "mse")
        >>> x, y = np.random.default_rng(0).random((20, 8)), np.arange(20) % 3
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> snapshot = lgg.callbacks.GraphSnapshot(x, y, taps=["h"], folder=folder, every=2)
        >>> _ = model.fit(x, x @ np.ones((8, 16)), epochs=4, verbose=0, callbacks=[snapshot])
        >>> sorted(path.name for path in folder.iterdir())
        ['epoch_0000.png', 'epoch_0002.png', 'epoch_0004.png']
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        taps: Taps = None,
        folder: PathLike | None = None,
        log_dir: PathLike | None = None,
        every: int = 1,
        batch_size: int = 128,
        pool: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(x, y, taps=taps, log_dir=log_dir, batch_size=batch_size, pool=pool)
        checks.check_positive_integer("every", every)
        if y is None:
            raise checks.invalid("y", "class labels, which colour the nodes", y)
        if folder is None and log_dir is None:
            raise ValueError(
                "The figures go nowhere. Expected `folder`, `log_dir` or both. Received: neither. "
                "Write for instance folder='snapshots'."
            )
        self.folder = None if folder is None else pathlib.Path(folder)
        self.every = every
        self.options = options

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch == 0:
            self._draw(0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every == 0:
            self._draw(epoch + 1)

    def _draw(self, epoch):
        layers = {tap.name: x for tap, x in zip(self._taps, self._look(), strict=True)}
        options = {"title": f"epoch {epoch}", **self.options}
        figure = plots.layer_graphs(layers, self.probe.classes, **options)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        if self.folder is not None:
            with files.beside(self.folder / f"epoch_{epoch:04}.png") as unfinished:
                unfinished.write_bytes(buffer.getvalue())
        for log in self._logs:
            log.image(epoch, "latent_geometry_graphs", buffer.getvalue())
