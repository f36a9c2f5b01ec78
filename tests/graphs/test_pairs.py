"""Blocks of rows: the same values and gradients as whole matrices, in bounded memory."""

import math
import re

import numpy as np
import pytest
import reference
from autodiff import ALL_MODES, BACKEND, value, value_and_grads
from backends import FLOAT64
from keras import ops

from keras_lgg import graphs, losses
from keras_lgg.graphs.labels import comparable
from keras_lgg.graphs.numerics import compiled_by_xla
from keras_lgg.graphs.pairs import PairMatrix, combine, rows_of_block

N = 37
LABELS = np.random.default_rng(5).integers(0, 4, N)
SOFT = np.random.default_rng(6).dirichlet(np.ones(4), N).astype("float32")

# Scalars of the batch ``x`` that is trained and of another one, by the block size.
PAIRWISE = {
    "gkd-knn": lambda x, t, b: ops.sum(losses.graph_distillation(t, x, k=5, block_size=b)),
    "gkd-knn-power": lambda x, t, b: ops.sum(
        losses.graph_distillation(t, x, k=5, power=3, block_size=b)
    ),
    "gkd-intra": lambda x, t, b: ops.sum(
        losses.graph_distillation(t, x, pairs="intra", labels=LABELS, block_size=b)
    ),
    "gkd-inter-knn": lambda x, t, b: ops.sum(
        losses.graph_distillation(t, x, pairs="inter", labels=LABELS, k=4, block_size=b)
    ),
    "rkd": lambda x, t, b: ops.mean(losses.relational_distance(t, x, block_size=b)),
    "spkd": lambda x, t, b: ops.sum(losses.similarity_preserving(t, x, block_size=b)),
    "pkt": lambda x, t, b: 100 * ops.sum(losses.probabilistic_transfer(t, x, block_size=b)),
    "cckd": lambda x, t, b: ops.sum(losses.correlation_congruence(t, x, block_size=b)),
    "gsl": lambda x, t, b: ops.sum(losses.graph_smoothness(LABELS, x, block_size=b)),
    "gsl-soft-knn": lambda x, t, b: ops.sum(losses.graph_smoothness(SOFT, x, k=6, block_size=b)),
    "target": lambda x, t, b: ops.sum(losses.target_graph(LABELS, x, block_size=b)),
    "target-rbf-soft": lambda x, t, b: ops.sum(
        losses.target_graph(SOFT, x, metric="rbf", alpha=0.3, block_size=b)
    ),
    "target-graph": lambda x, t, b: ops.sum(
        losses.target_graph(SOFT @ SOFT.T, x, form="graph", metric="exponential", block_size=b)
    ),
    "smoothness-knn": lambda x, t, b: graphs.label_smoothness(
        x, LABELS, k=5, power=2, num_classes=4, block_size=b
    ),
    "smoothness-relative-knn": lambda x, t, b: graphs.label_smoothness(
        x, LABELS, k=5, power=3, num_classes=4, relative=True, block_size=b
    ),
    "variation-knn": lambda x, t, b: losses.graph_variation([t, x], k=5, block_size=b),
}


def batches(dtype="float32"):
    rng = np.random.default_rng(0)
    return (np.maximum(rng.normal(size=(N, d)), 0).astype(dtype) for d in (9, 6))


SIZES = {"eager": (5,), "graph": (16,), "xla": (1, N - 1)}


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("name", PAIRWISE)
def test_the_result_does_not_depend_on_the_block_size(name, mode):
    x, t = batches()
    # TensorFlow has each size in one mode, since to trace one costs seconds.
    sizes = SIZES[mode] if BACKEND == "tensorflow" else (1, 16, N - 1)
    expected, (gradient,) = value_and_grads(lambda x: PAIRWISE[name](x, t, None), [x])
    for size in sizes:
        found, (found_gradient,) = value_and_grads(
            lambda x, size=size: PAIRWISE[name](x, t, size), [x], mode
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(
            found_gradient, gradient, rtol=0, atol=1e-5 * np.abs(gradient).max()
        )


@FLOAT64
@pytest.mark.parametrize("name", PAIRWISE)
def test_blocks_in_float64(name):
    x, t = batches("float64")
    expected, (gradient,) = value_and_grads(lambda x: PAIRWISE[name](x, t, None), [x])
    found, (found_gradient,) = value_and_grads(lambda x: PAIRWISE[name](x, t, 10), [x])
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(
        found_gradient, gradient, rtol=0, atol=1e-10 * np.abs(gradient).max()
    )


@pytest.mark.parametrize("block", [None, 1, 4, 10])
def test_a_pair_matrix_by_hand(block):
    x = np.arange(10.0, dtype="float32")
    matrix = PairMatrix(
        {"x": ops.convert_to_tensor(x)},
        lambda rows, columns, others: ops.where(
            others, rows["x"][:, None] - columns["x"][None, :], 100.0
        ),
        block,
    )
    doubled = combine(
        lambda values, others, rows, columns: values * rows["w"][:, None] + columns["w"][None, :],
        matrix,
        w=ops.convert_to_tensor(x),
    )
    whole = np.where(np.eye(10, dtype=bool), 100.0, x[:, None] - x[None, :])
    expected = whole * x[:, None] + x[None, :]
    np.testing.assert_array_equal(doubled.map_rows(lambda values, *_: values), expected)
    found = doubled.map_rows(
        lambda values, others, rows, columns: ops.sum(values, axis=1) + rows["only"],
        only_rows={"only": ops.convert_to_tensor(x)},
    )
    np.testing.assert_array_equal(found, expected.sum(axis=1) + x)


def test_automatic_blocks():
    assert rows_of_block(2048, None) is None
    assert rows_of_block(2049, None) == 2**22 // 2049
    assert rows_of_block(32_768, None) == 128
    assert rows_of_block(100, 100) is None
    assert rows_of_block(100, 99) == 99
    assert rows_of_block(10**8, None) == 1
    unknown = ops.convert_to_tensor(5)  # as a batch size is inside a compiled function
    assert rows_of_block(unknown, None) is None
    assert rows_of_block(unknown, 7) == 7


@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_search_of_neighbours_fits_the_compiler(mode):
    """XLA on a CPU would sort for a top-k, twenty times slower than halving the interval."""
    found = []

    def function(x):
        found.append(compiled_by_xla())
        return x

    value(function, [np.zeros(3, "float32")], mode)
    assert found[-1] == (mode == "xla" or BACKEND == "jax")


def test_ties_are_kept_in_blocks_too():
    # Four copies of one sample, in several blocks: with k = 1 each keeps all three others.
    rng = np.random.default_rng(0)
    x = rng.random((12, 700)).astype("float32")
    x[[1, 5, 9]] = x[0]
    expected = reference.label_smoothness(x, np.arange(12) % 3, k=1)
    for size in (None, 1, 5):
        found = graphs.label_smoothness(x, np.arange(12) % 3, k=1, num_classes=3, block_size=size)
        np.testing.assert_allclose(float(found), expected, rtol=1e-5)


def test_nan_stays_visible_in_blocks():
    x, t = batches()
    x[3, 0] = np.nan
    for name, loss in PAIRWISE.items():
        assert np.isnan(value(lambda x, loss=loss: loss(x, t, 10), [x])), name


@pytest.mark.skipif(BACKEND != "jax", reason="JAX tells how much memory a program needs")
@pytest.mark.parametrize(
    "loss",
    [
        lambda x, t, y: losses.graph_distillation(t, x),
        lambda x, t, y: losses.graph_distillation(t, x, k=16),
        lambda x, t, y: losses.relational_distance(t, x),
        lambda x, t, y: losses.similarity_preserving(t, x),
        lambda x, t, y: losses.probabilistic_transfer(t, x),
        lambda x, t, y: losses.correlation_congruence(t, x),
        lambda x, t, y: losses.graph_smoothness(y, x, k=16),
        lambda x, t, y: losses.target_graph(y, x),
        lambda x, t, y: losses.graph_variation([t, x], k=16),
        lambda x, t, y: losses.smoothness_variation([t, x], y, k=16, num_classes=10, power=2),
    ],
)
def test_memory_does_not_grow_with_the_square(loss):
    import jax

    def program(n):
        shapes = [((n, 32), "float32"), ((n, 32), "float32"), ((n,), "int32")]
        shapes = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
        step = jax.value_and_grad(lambda x, t, y: ops.sum(loss(x, t, y)))
        return jax.jit(step).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    n = 16_384
    assert program(n) < 0.5 * 4 * n * n  # less than half of a single matrix in float32
    assert program(2 * n) < 2.2 * program(n)


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled")
@pytest.mark.parametrize("name", [name for name in PAIRWISE if name != "target-graph"])
def test_no_array_of_all_pairs_in_blocks(name):
    x, t = batches()
    assert largest_array(lambda x: PAIRWISE[name](x, t, 4), x) < N * N
    assert largest_array(lambda x: PAIRWISE[name](x, t, None), x) >= N * N


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled")
def test_no_array_of_all_pairs_for_the_ranks_of_labels():
    assert largest_array(lambda labels: comparable(labels, 4), LABELS) < N * N


def largest_array(function, x):
    """The most entries of an array in the value's program, as it is given to XLA."""
    shapes = re.findall(r"\w+\[([\d,]+)\]", program(function, x))
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def program(function, x):
    if BACKEND == "jax":
        import jax

        return jax.jit(function).lower(x).as_text("hlo")
    import tensorflow as tf

    compiled = tf.function(function, jit_compile=True, autograph=False)
    return compiled.experimental_get_compiler_ir(tf.constant(x))(stage="hlo")


class TestErrors:
    X = np.random.default_rng(0).random((10, 3)).astype("float32")

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda x: losses.relational_distance(x, x, block_size=0),
                "`block_size`.*positive integer.*block_size=0",
            ),
            (lambda x: losses.GraphSmoothness(block_size=2.5), "`block_size`.*2.5"),
            (
                lambda x: graphs.label_smoothness(x, np.arange(10), num_classes=10, block_size=-1),
                "`block_size`.*-1",
            ),
            (lambda x: losses.GraphDistillation(num_classes=0), "`num_classes`.*0"),
            (
                lambda x: graphs.label_smoothness(x, np.arange(10), block_size=4),
                "`num_classes` is missing.*blocks.*10 samples.*one-hot",
            ),
            (
                lambda x: graphs.label_smoothness(
                    np.ones((3000, 1), "float32"), np.zeros(3000, int), k=3
                ),
                "`num_classes` is missing.*3000 samples",
            ),
        ],
    )
    def test_say_what_was_wrong(self, call, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            call(self.X)
