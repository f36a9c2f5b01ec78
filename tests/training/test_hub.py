"""Every tap of models that others wrote: KerasHub, keras.applications, a subclassed transformer."""

import importlib

import keras
import numpy as np
import pytest
from autodiff import BACKEND, to_numpy
from keras import layers, ops

import keras_lgg as lgg
from keras_lgg import losses
from keras_lgg.training.taps import Tapped

pytestmark = [
    pytest.mark.ci,
    # The penalties reach no farther than their last tap.
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),
]
hub = pytest.importorskip("keras_hub", reason="needs keras-hub")
RNG = np.random.default_rng(0)
N = 4
LABELS = np.arange(N) % 2
TOKENS = RNG.integers(1, 40, (N, 6))
MASK = (np.arange(6) < [[6], [4], [5], [6]]).astype("int32")
IMAGES = RNG.random((N, 32, 32, 3)).astype("float32")
SMALL = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
TEXT = {"vocabulary_size": 40, "max_sequence_length": 6, **SMALL}
TEXTS = {"token_ids": TOKENS, "padding_mask": MASK}


def mit():
    return hub.models.MiTBackbone(
        max_drop_path_rate=0.0,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        layerwise_depths=[1, 1],
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        num_layers=2,
        hidden_dims=[4, 8],
        image_shape=(32, 32, 3),
    )


def clip():
    vision = hub.models.CLIPVisionEncoder(
        patch_size=8, hidden_dim=8, num_layers=2, num_heads=2, intermediate_dim=16,
        image_shape=(32, 32, 3),
    )  # fmt: skip
    text = hub.models.CLIPTextEncoder(
        vocabulary_size=40, embedding_dim=8, hidden_dim=8, num_layers=2, num_heads=2,
        intermediate_dim=16, max_sequence_length=6,
    )  # fmt: skip
    return hub.models.CLIPBackbone(vision_encoder=vision, text_encoder=text, projection_dim=8)


def resnet():
    return hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
        image_shape=(32, 32, 3),
    )  # fmt: skip


def vit():
    return hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )


def whisper():
    return hub.models.WhisperBackbone(
        vocabulary_size=40, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16,
        num_mels=8, max_encoder_sequence_length=8, max_decoder_sequence_length=6,
    )  # fmt: skip


@keras.saving.register_keras_serializable("test_hub")
class Transformer(keras.Model):
    """A transformer of subclassed parts, which calls its layers in Python."""

    def __init__(self, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
        self.embed = layers.Dense(8, name="embed")
        self.attention = [layers.MultiHeadAttention(2, 4) for _ in range(depth)]
        self.norms = [layers.LayerNormalization() for _ in range(depth)]
        self.head = layers.Dense(2, "softmax", name="head")

    def build(self, shape):
        self.call(keras.KerasTensor(shape))

    def call(self, x):
        x = self.embed(x)
        for attention, norm in zip(self.attention, self.norms, strict=True):
            x = norm(x + attention(x, x))
        return self.head(ops.mean(x, axis=1))

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}


def transformer():
    model = Transformer()
    model(np.zeros((1, 5, 3), "float32"))
    return model


# By name: the model, its data, and a pattern of taps in the order of the calls.
MODELS = {
    "bert": (lambda: hub.models.BertBackbone(**TEXT, num_segments=2),
             {**TEXTS, "segment_ids": 0 * TOKENS}, "transformer_layer_?"),
    "distilbert": (lambda: hub.models.DistilBertBackbone(**TEXT), TEXTS, "transformer_layer_?"),
    "gpt2": (lambda: hub.models.GPT2Backbone(**TEXT), TEXTS, "transformer_layer_?"),
    "vit": (vit, IMAGES, "vit_encoder/transformer_block_?"),
    "resnet": (resnet, IMAGES, "stack?_block0_out"),
    "mit": (mit, IMAGES, "hierarchical_encoder_?_?"),
    "segformer": (lambda: hub.models.SegFormerBackbone(image_encoder=mit(), projection_filters=4),
                  IMAGES, "functional*/hierarchical_encoder_?_?"),
    "clip": (clip, {"images": IMAGES, "token_ids": TOKENS}, "clip_vision_encoder*/encoder_block_?"),
    "whisper": (whisper, {
        "encoder_features": RNG.random((N, 8, 8)).astype("float32"),
        "decoder_token_ids": TOKENS, "decoder_padding_mask": MASK,
    }, "transformer_encoder_layer_?"),
    "subclassed": (transformer, RNG.random((N, 5, 3)).astype("float32"), "layer_normalization*"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_tap(name):
    make, data, _ = MODELS[name]
    model = make()
    shapes = lgg.layer_paths(model)
    outputs, taps = Tapped(model, shapes)(data, training=False)
    for path, shape in shapes.items():
        found = taps[path].value.shape
        assert len(found) == len(shape), path
        assert all(want in (None, got) for want, got in zip(shape, found, strict=True)), path
    again = keras.tree.flatten(model(data, training=False))
    for a, b in zip(keras.tree.flatten(outputs), again, strict=True):
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=1e-5, atol=1e-6)
    # What Keras gives for a layer of the graph, where it can be asked.
    graph = getattr(model, "layers", []) if hasattr(model, "input") else []
    named = {each.name: each.output for each in graph if each.name in taps}
    assert named or name == "subclassed"
    if name == "clip":  # whose parts have inputs of one name, which Keras does not allow itself
        return
    for path, output in named.items():
        expected = keras.Model(model.input, output)(data, training=False)
        np.testing.assert_allclose(
            to_numpy(taps[path].value), to_numpy(expected), rtol=1e-5, atol=1e-6, err_msg=path
        )


# A family compiles as another one does, and takes five times as long as eagerly.
COMPILED = ["distilbert", "subclassed"]
# JAX, where an eager step takes as long, compiles a step of each for minutes.
TRAINED = MODELS if BACKEND != "jax" else ["distilbert", "vit", "clip", "subclassed"]


def runs_eagerly(name):
    return BACKEND == "tensorflow" and name not in COMPILED


@pytest.mark.parametrize("name", TRAINED)
def test_wrapped_trained_and_saved(name, tmp_path):
    make, data, pattern = MODELS[name]
    base = make()
    penalty = lgg.Penalty(losses.GraphVariation(), pattern, 0.1, pool="mean")
    model = lgg.GeometryModel(base, [penalty])
    assert len(model.penalties[0].taps) >= 2
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=runs_eagerly(name))
    model.fit(data, batch_size=N, verbose=0)
    expected = model.evaluate(data, batch_size=N, verbose=0, return_dict=True)
    assert expected["graph_variation"] > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = loaded.evaluate(data, batch_size=N, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["graph_variation"], expected["graph_variation"], rtol=1e-4)
    loaded.fit(data, batch_size=N, verbose=0)
    base.save(tmp_path / "base.keras")
    plain = keras.saving.load_model(tmp_path / "base.keras")
    pairs = zip(*(keras.tree.flatten(m(data, training=False)) for m in (plain, base)), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["distilbert", "vit", "subclassed"])
def test_distilled(name):
    make, data, pattern = MODELS[name]
    penalty = lgg.Penalty(losses.GraphDistillation(), [(pattern, pattern)], pool="mean")
    model = lgg.Distiller(make(), make(), [penalty])
    # One of them is compiled, the ViT, which is not above.
    eagerly = BACKEND == "tensorflow" and name != "vit"
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=eagerly)
    history = model.fit(data, batch_size=N, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["graph_distillation"][0] > 0


# The smallest of each family that its builder makes: the name, and options of that builder.
FAMILIES = {
    "MobileNetV2": ("MobileNetV2", {"alpha": 0.35}),
    "MobileNetV3Small": ("MobileNetV3Small", {"minimalistic": True, "alpha": 0.75}),
    "EfficientNetB0": ("EfficientNet", {
        "width_coefficient": 0.25, "depth_coefficient": 0.1, "default_size": 32,
    }),
    "EfficientNetV2B0": ("EfficientNetV2", {
        "width_coefficient": 0.25, "depth_coefficient": 0.1, "default_size": 32,
        "name": "efficientnetv2-b0",
    }),
    "DenseNet121": ("DenseNet", {"blocks": [2, 2, 2, 2]}),
    "ResNet50": ("ResNet50", {}),
    "NASNetMobile": ("NASNet", {
        "penultimate_filters": 96, "num_blocks": 1, "stem_block_filters": 8, "default_size": 32,
    }),
    "ConvNeXtTiny": ("ConvNeXt", {
        "depths": [1, 1, 2, 1], "projection_dims": [8, 8, 16, 16], "default_size": 32,
    }),
}  # fmt: skip


def application(name):
    """A network of a family of keras.applications, by the function that its models share."""
    builder, options = FAMILIES[name]
    module = importlib.import_module(getattr(keras.applications, name).__module__)
    return getattr(module, builder)(input_shape=(32, 32, 3), weights=None, classes=2, **options)


# What no backend takes part in, the recording of each call, is tried on one of them.
@pytest.mark.parametrize(
    "name", FAMILIES if BACKEND == "tensorflow" else ["MobileNetV3Small", "ConvNeXtTiny"]
)
def test_every_tap_of_an_application(name):
    model = application(name)
    shapes = lgg.layer_paths(model)
    assert len(shapes) >= len(model.layers) - 1
    paths = list(shapes)
    outputs, taps = Tapped(model, paths)(IMAGES[:2], training=False)
    np.testing.assert_allclose(to_numpy(taps[paths[-1]].value), to_numpy(outputs), rtol=1e-6)
    for path, shape in shapes.items():
        assert tuple(taps[path].value.shape[1:]) == shape[1:], path
    # The values, of every tenth layer and of the last ones.
    some = [layer for layer in model.layers if layer.name in taps]
    some = [*some[::10], *some[-3:]]
    expected = keras.Model(model.input, [layer.output for layer in some])(
        IMAGES[:2], training=False
    )
    for layer, value in zip(some, expected, strict=True):
        np.testing.assert_allclose(
            to_numpy(taps[layer.name].value), to_numpy(value), rtol=1e-5, atol=1e-6
        )
    # The input is a tap, too.
    lgg.GeometryModel(
        model, [lgg.Penalty(losses.GraphVariation(), [model.layers[0].name, *paths[-4:-1]])]
    )
