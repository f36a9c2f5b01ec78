"""Models that hold layers of relative representations, as they are deployed."""

import inspect

import keras

from keras_lgg.graphs.pooling import mask_of
from keras_lgg.relative.layer import RelativeRepresentation
from keras_lgg.relative.positions import mask_from
from keras_lgg.training.rebuilding import is_graph, layers_of, rebuilt


def with_fixed_anchors(model: keras.Model) -> keras.Model:
    """The model to deploy: `RelativeRepresentation` layers no longer encode their anchors.

    A layer with an encoder runs it on every anchor at every call, so that its codes are those of
    the encoder as it is. Once it is trained, the representations of the anchors can stay.

    Args:
        model: Functional or Sequential model; models nested in it are searched, too.

    Returns:
        A `keras.Model` that shares the layers of ``model``; in place of each layer with an encoder
        stand the encoder and a `RelativeRepresentation` of fixed anchors. Training it further
        would move the encoder away from them: train ``model`` itself.

    Raises:
        ValueError: If the model is not a graph of layers.

    Example:
        >>> import keras, numpy as np, keras_lgg as lgg
        >>> x = np.random.default_rng(0).random((20, 8), "float32")
        >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)], name="encoder")
        >>> layer = lgg.layers.RelativeRepresentation(x[:5], encoder=encoder, name="codes")
        >>> model = keras.Sequential([keras.Input((8,)), layer])
        >>> deployed = lgg.layers.with_fixed_anchors(model)
        >>> [layer.name for layer in deployed.layers[1:]], deployed.predict(x, verbose=0).shape
        (['encoder', 'codes'], (20, 5))
    """

    def replace(layer, call):
        if isinstance(layer, RelativeRepresentation) and layer.encoder is not None:
            fixed = layer.fixed()
            return lambda x, **kwargs: _on_encoded(fixed, layer.encoder, x, call, **kwargs)
        holds_some = is_graph(layer) and layers_of(layer, RelativeRepresentation)
        return with_fixed_anchors(layer) if holds_some else layer

    return rebuilt(model, replace, "The anchors")


def _on_encoded(layer, encoder, inputs, call, mask=None, **options):
    """What a layer makes of the representations, with the mask that it would not find itself."""
    if all(m is None for m in keras.tree.flatten(mask)):
        mask = None
    elif "mask" in inspect.signature(encoder.call).parameters:
        options["mask"] = mask
    encoded = call(encoder, inputs, **options)
    if mask_of(encoded) is not None:
        return layer(encoded)
    found = mask_from(encoder, inputs, encoded)
    if found is None and mask is not None and encoder.supports_masking:
        found = encoder.compute_mask(inputs, mask)
    return layer(encoded) if found is None else layer(encoded, mask=found)
