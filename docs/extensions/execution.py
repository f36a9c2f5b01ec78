"""The kernels that run the pages' code, side by side, and where its outputs are kept."""

import hashlib
import importlib.metadata
import logging
import os
import pathlib
import tempfile

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

DOCS = pathlib.Path(__file__).parents[1]
PACKAGE = DOCS.parent / "keras_lgg"
# What the outputs of the pages depend on, beside the package and their own code.
VERSIONS = ("tensorflow", "keras", "numpy", "scikit-learn", "matplotlib", "keras-tuner")

# Run in each kernel: TensorFlow prints warnings that many small models are traced.
QUIET = (
    "import logging\n"
    "logging.getLogger('tensorflow').addFilter(lambda record: record.levelno >= logging.ERROR)\n"
)


def fingerprint(package=PACKAGE, versions=VERSIONS):
    """One text for the sources of the package, and the versions of what it runs on."""
    state = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), DOCS / "matplotlibrc"]):
        state.update(str(path.relative_to(DOCS.parent)).encode() + path.read_bytes())
    for name in versions:
        state.update(f"{name} {importlib.metadata.version(name)}".encode())
    return state.hexdigest()[:16]


def cache():
    """Where the outputs of cells are kept for as long as neither they nor the package change."""
    folder = DOCS / "_build" / "executed" / fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    get_cache(folder).list_cache_records()  # made here, before processes do so side by side
    return str(folder)


def prepare_kernels():
    """What the kernels inherit. The folder that is given back must live as long as the build."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ["DOCS"] = os.environ["MATPLOTLIBRC"] = str(DOCS)
    ipython = tempfile.TemporaryDirectory()
    profile = pathlib.Path(ipython.name, "profile_default")
    profile.joinpath("startup").mkdir(parents=True)
    profile.joinpath("startup", "quiet.py").write_text(QUIET)
    # Kernels warn that they listen on this machine, and their client says when each starts.
    profile.joinpath("ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n")
    logging.getLogger("traitlets").setLevel(logging.WARNING)
    os.environ["IPYTHONDIR"] = ipython.name
    return ipython


def execute(app, env, pages):
    """Run the code of all pages, side by side; when a page is read, its outputs are kept already.

    A build in several processes hands each of them a run of neighbouring pages: one of them would
    have all tutorials.
    """
    if app.config.nb_execution_mode != "cache":
        return
    kept = get_cache(app.config.nb_execution_cache_path)
    executed = [path for page in pages if is_executed(path := env.doc2path(page))]
    for path in reversed(executed):  # tutorials first, which take longest
        kept.add_nb_to_project(str(path), read_data={"name": "myst_nb_md", "type": "plugin"})
    if executed:
        logger = logging.getLogger(__name__)
        logger.setLevel(logging.WARNING)  # of the processes, too
        # What fails is run again when its page is read, which says why.
        load_executor("temp-parallel", kept, logger).run_and_cache(
            filter_uris=list(map(str, executed)), timeout=app.config.nb_execution_timeout
        )


def is_executed(path):
    return path.suffix == ".md" and "```{code-cell}" in path.read_text()


def setup(app):
    app.connect("env-before-read-docs", execute)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
