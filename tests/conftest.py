"""One suite for every backend: `KERAS_BACKEND` chooses which."""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")
# What compiles a test's small programs need not make them fast, and small tensors gain nothing
# from threads, which would wait for each other's cores.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false"
    " --xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import numpy as np
import pytest

# Tracing makes many small objects, and JAX does work of its own whenever garbage is collected.
gc.set_threshold(50_000, 10, 10)

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_lgg"
# What these show in their docstrings works on arrays and files: once is enough.
HOST_TOOLS = [PACKAGE / name for name in ("callbacks", "manifolds", "plots", "tuning")]
collect_ignore = ["saved", "support"]  # scripts, which tests start in processes of their own


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run what is left to CI, too")


def pytest_configure(config):
    config.addinivalue_line("markers", "ci: takes long; run by --all, or where its file is named")
    config.addinivalue_line("markers", "once: no backend takes part; run on TensorFlow alone")
    # TensorFlow says that tf.data stays as it is where functions run eagerly.
    config.addinivalue_line("filterwarnings", "ignore:Even though the:UserWarning")


def is_named(config):
    """Whether the command names files or tests, in place of folders or nothing."""
    return any(".py" in argument for argument in config.invocation_params.args)


def pytest_collection_modifyitems(config, items):
    left = set()
    if not config.getoption("--all") and not is_named(config):
        left |= {item for item in items if item.get_closest_marker("ci")}
    if keras.backend.backend() != "tensorflow":
        left |= {item for item in items if item.get_closest_marker("once")}
        left |= {item for item in items if item.path.parent in HOST_TOOLS}
    # Files of long tests first, so that no process is left with one of them at the end.
    long = {item.path for item in items if item.get_closest_marker("ci")}
    items[:] = sorted((i for i in items if i not in left), key=lambda item: item.path not in long)
    config.hook.pytest_deselected(items=list(left))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    # One file is done before two processes have started.
    return 0 if is_named(config) and not config.getoption("--all") else None


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--all") or is_named(config):
        return
    terminalreporter.write_line(
        "Left to CI: compiled programs, examples, documentation, benchmarks, several devices. "
        "To run these, too: python -m pytest --all"
    )


@pytest.fixture(autouse=True)
def eagerly(request):
    """TensorFlow runs functions as they are, but for what is left to CI.

    To trace and compile a training step takes seconds; to take it a few times does not. On JAX
    all steps are compiled.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.run_functions_eagerly(not request.node.get_closest_marker("ci"))


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session(free_memory=False)  # to collect garbage would double the time


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """JAX keeps what it has compiled, gigabytes of it; another file hardly needs it."""
    yield
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
