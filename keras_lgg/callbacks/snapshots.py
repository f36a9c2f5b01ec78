"""A callback that draws the graphs of the layers while a model trains, or keeps the layers."""

import io
import pathlib
from typing import Any

import numpy as np

from keras_lgg import checks, files, plots
from keras_lgg.callbacks.probes import LayerWatcher, Taps, condensed
from keras_lgg.relative.comparison import finite_rows
from keras_lgg.types import ArrayLike, PathLike, Samples

DPI = 150


class GraphSnapshot(LayerWatcher):
    """Draws the latent geometry graphs of layers, or keeps the layers, every few epochs.

    The graphs are those of a fixed batch, and the figures those of `keras_lgg.plots.layer_graphs`:
    one before the training, as epoch 0, and one after every ``every`` epochs. Layers run in
    inference mode, without gradients or changes of any state.

    With ``keep=True`` it also keeps the layers themselves, for `keras_lgg.explore`, which has a
    slider along these epochs.

    Args:
        x: The fixed batch: an array ``(n, ...)``, or a structure of such arrays, as the model takes
            it. With a few hundred samples, the nodes of a graph can still be told apart.
        y: Its class labels: integers ``(n,)`` or ``(n, 1)``, or one-hot or soft ``(n, c)``.
            ``None`` if no figure is drawn.
        taps: Names of layers, in their order along the depth; by default the layers of the model's
            penalties, in their order. The output of the model, if a penalty acts on it, is called
            ``"output"``.
        folder: Folder of the figures, ``epoch_0000.png`` and so on.
        log_dir: Folder of TensorBoard's event files, where the figures are images named
            ``"latent_geometry_graphs"``.
        keep: Whether ``kept`` holds the layers of each of these epochs, as rows of at most n
            columns with the same inner products: up to ``4 * n**2`` bytes per layer.
        every: Number of epochs from one figure to the next.
        batch_size: Number of samples that the model sees at a time.
        pool: How a layer with positions becomes one vector per sample: ``None`` (all positions,
            flattened), ``"mean"``, ``"max"``, ``"first"`` or ``"last"``; masked positions do not
            count.
        **options: Options of `keras_lgg.plots.layer_graphs`, such as ``layout`` or ``k``.

    Attributes:
        kept: Dict from each epoch to a dict from each layer to an array ``(n, min(n, d))``.

    Raises:
        ValueError: If an argument is invalid, or ``folder``, ``log_dir`` and ``keep`` are all
            missing. In ``fit``, if a layer cannot be tapped or is not finite.
        ImportError: In ``fit``, if matplotlib is missing or, with ``log_dir``, TensorBoard.

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

    Reference: the graphs: Lassance, Gripon and Ortega, "Representing deep neural networks latent
    space geometries with graphs", Algorithms 14(2):39, 2021, https://arxiv.org/abs/2011.07343
    """

    def __init__(
        self,
        x: Samples,
        y: ArrayLike | None,
        *,
        taps: Taps = None,
        folder: PathLike | None = None,
        log_dir: PathLike | None = None,
        keep: bool = False,
        every: int = 1,
        batch_size: int = 128,
        pool: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(x, y, taps=taps, log_dir=log_dir, batch_size=batch_size, pool=pool)
        checks.check_positive_integer("every", every)
        self._draws = folder is not None or log_dir is not None
        if y is None and self._draws:
            raise checks.invalid("y", "class labels, which colour the nodes", y)
        if not self._draws and not keep:
            raise ValueError(
                "The figures go nowhere. Expected `folder`, `log_dir`, or keep=True for "
                "lgg.explore. Received: none of them. Write for instance folder='snapshots'."
            )
        self.keep = keep
        self.kept: dict[int, dict[str, np.ndarray]] = {}
        self.folder = None if folder is None else pathlib.Path(folder)
        self.every = every
        self.options = options

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch == 0:
            self._take(0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every == 0:
            self._take(epoch + 1)

    def _take(self, epoch):
        layers = {tap.name: x for tap, x in zip(self._taps, self._look(), strict=True)}
        if self.keep:
            self.kept[epoch] = {
                name: condensed(finite_rows(f"layer {name}", x, "float32"))
                for name, x in layers.items()
            }
        if self._draws:
            self._draw(epoch, layers)

    def _draw(self, epoch, layers):
        options = {"title": f"epoch {epoch}", **self.options}
        figure = plots.layer_graphs(layers, self.probe.classes, **options)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        if self.folder is not None:
            with files.beside(self.folder / f"epoch_{epoch:04}.png") as unfinished:
                unfinished.write_bytes(buffer.getvalue())
        for log in self._logs:
            log.image(epoch, "latent_geometry_graphs", buffer.getvalue())
