"""Models with layers of relative representations, as they are deployed."""

import inspect

import keras

from keras_lgg.graphs.pooling import mask_of
from keras_lgg.relative.layer import RelativeRepresentation
from keras_lgg.relative.positions import mask_from
from keras_lgg.training.rebuilding import is_graph, layers_of, rebuilt


def with_fixed_anchors(model: keras.Model) -> keras.Model:
    """The model to deploy: its `RelativeRepresentation` layers no longer encode their anchors.

    A layer with an encoder runs it on every anchor at every call, so that its codes always fit the
    encoder of the moment. After training, the representations of the anchors can be computed once
    and kept: the codes :math:`s(f(x), f(a_k))` of an encoder :math:`f` and anchors :math:`a_k` stay
    the same, and a call encodes only :math:`x`.

    Args:
        model: Functional or Sequential model; models nested in it are searched, too.

    Returns:
        A `keras.Model` that shares the layers of ``model``. Each layer with an encoder is replaced
        by the encoder, followed by a `RelativeRepresentation` with fixed anchors. Training this
        model would move the encoder away from its anchors: train ``model`` itself instead.

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

    Reference: the codes are those of Moschella et al., "Relative representations enable zero-shot
    latent space communication", ICLR 2023, https://arxiv.org/abs/2209.15430
    """

    def replace(layer, call):
        if isinstance(layer, RelativeRepresentation) and layer.encoder is not None:
            fixed = layer.fixed()
            return lambda x, **kwargs: _on_encoded(fixed, layer.encoder, x, call, **kwargs)
        holds_some = is_graph(layer) and layers_of(layer, RelativeRepresentation)
        return with_fixed_anchors(layer) if holds_some else layer

    return rebuilt(model, replace, "The anchors")


def _on_encoded(layer, encoder, inputs, call, mask=None, **options):
    """Apply a layer to the representations, with the mask that it would not find by itself."""
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
