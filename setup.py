"""Package metadata. The version is that of `keras_lgg/__init__.py`."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "keras_lgg" / "__init__.py").read_text(), re.MULTILINE
).group(1)

REPOSITORY = "https://github.com/OWNER/keras_lgg"  # to be set once it is public


def description():
    """The README for an index, which has no files beside it: links to files become names."""
    readme = (HERE / "README.md").read_text()
    page = re.sub(r"!?\[([^\]]*)\]\((?!https?:)([^)#]*)[^)]*\)", r"\1 (`\2`)", readme)
    return f"{page}\nFiles that are named here are in the source distribution.\n"


EXTRAS = {
    # tensorflow-datasets 4.9.10 imports importlib_resources and does not declare it.
    "datasets": ["tensorflow-datasets>=4.9.7", "importlib_resources", "scikit-learn>=1.5"],
    # keras-tuner 1.4.8 imports tensorboard, which TensorFlow 2.21 no longer brings.
    # Its Bayesian search needs its own extra.
    "tuner": ["keras-tuner[bayesian]>=1.4.7", "tensorboard"],
    "tensorboard": ["tensorboard"],
    "plots": ["matplotlib>=3.8"],
    "explorer": ["bokeh>=3.9"],  # which brings Jinja2 and Pillow
    "robustness": ["imagecorruptions-imaug>=1.1.3", "pandas>=2.2"],
    "attacks": ["adversarial-robustness-toolbox>=1.20"],
    "relative": ["scikit-learn>=1.5", "scikit-image>=0.22"],
    "manifolds": ["scipy>=1.13", "scikit-learn>=1.5", "threadpoolctl>=3.1"],
    "faiss": ["faiss-cpu>=1.14.3"],
    "text": ["scikit-learn>=1.5", "keras-hub>=0.32", "gensim>=4.4"],
    "graphs": ["scikit-learn>=1.5"],
    "jax": ["jax>=0.4.35"],
    "torch": ["torch>=2.4"],
    "examples": [
        "matplotlib>=3.8",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "pandas>=2.2",
        "bokeh>=3.9",
    ],
}
# With what the pages run.
EXTRAS["docs"] = [
    "sphinx>=9",
    "myst-nb>=1.4",
    "furo>=2025.12",
    "sphinx-copybutton>=0.5.2",
    "sphinxcontrib-katex>=0.9.11",
    *(name for e in ("examples", "explorer", "manifolds", "plots", "tuner") for name in EXTRAS[e]),
]
TESTED = (
    "jax",
    "datasets",
    "robustness",
    "attacks",
    "relative",
    "manifolds",
    "faiss",
    "text",
    "graphs",
    "plots",
    "explorer",
    "tuner",
    "tensorboard",
    "examples",
    "docs",
)
EXTRAS["test"] = [
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "ruff>=0.8",
    "mypy>=1.15",
    "pyriemann>=0.12",  # an oracle of distances
    "selenium>=4.20",  # which clicks through pages where there is a Chromium with its driver
    "build>=1.2",
    "setuptools>=77",
    "twine>=6.1",
    "tf2onnx>=1.17",  # what exported models run on
    "onnxruntime>=1.20",
    *(name for e in TESTED for name in EXTRAS[e]),
]

setup(
    name="keras_lgg",
    version=VERSION,
    description="Train Keras 3 networks by the geometry of their latent spaces",
    long_description=description(),
    long_description_content_type="text/markdown",
    project_urls={"Source": REPOSITORY},
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["keras_lgg", "keras_lgg.*"]),
    package_data={"keras_lgg": ["py.typed", "explorer/*.css", "explorer/*.html", "explorer/*.js"]},
    python_requires=">=3.11",
    install_requires=["keras>=3.14,<4", "tensorflow>=2.18", "numpy>=1.26"],
    extras_require=EXTRAS,
    keywords=[
        "keras",
        "tensorflow",
        "jax",
        "pytorch",
        "representation learning",
        "latent geometry graphs",
        "robustness",
        "knowledge distillation",
        "metric learning",
        "relative representations",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",  # where it is tested
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
