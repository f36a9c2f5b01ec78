"""Texts of the examples: those that say the same in several languages, line by line; English alone.

    halves      needs no download: what the installed packages say of their functions and classes
                (NumPy, SciPy, pandas, scikit-learn, Matplotlib, Keras), cut in the middle. The
                "languages" are the first and the second half: other sentences on the same thing,
                in the same English, and so less alike than translations are. The texts depend on
                the versions that are installed.
    documentation
                needs no download: the paragraphs of the same texts, in English alone, with their
                lists of arguments and lines of code, each paragraph once.
    multi30k    captions of 30,000 pictures in English, German, French and Czech (Elliott et al.,
                "Multi30K: multilingual English-German image descriptions", 2016, and the shared
                tasks of 2017 and 2018), as at https://github.com/multi30k/dataset: the files
                ``{train,test_2016_flickr}.{en,de,fr,cs}.gz`` of its folder ``data/task1/raw``, for
                research.

The latter are read from the folder ``multi30k`` in ``--data-dir``, or in ``TFDS_DATA_DIR``.
"""

import gzip
import importlib
import inspect
import os
import pathlib
import warnings
from typing import NamedTuple

import numpy as np

from keras_lgg.checks import check_choice

NAMES = ("halves", "multi30k")
LANGUAGES = {"halves": ("first half", "second half"), "multi30k": ("en", "de", "fr", "cs")}
DOCUMENTED = (
    "keras.layers",
    "keras.losses",
    "keras.metrics",
    "keras.ops",
    "keras.optimizers",
    "matplotlib.axes",
    "matplotlib.pyplot",
    "numpy",
    "numpy.fft",
    "numpy.linalg",
    "numpy.random",
    "pandas",
    "scipy.integrate",
    "scipy.interpolate",
    "scipy.linalg",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.spatial",
    "scipy.special",
    "scipy.stats",
    "sklearn.cluster",
    "sklearn.decomposition",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.neighbors",
    "sklearn.preprocessing",
    "sklearn.svm",
)
ENGLISH = ("documentation", "multi30k")
FEWEST_WORDS = 80  # of a text that is cut in two
FEWEST_IN_PARAGRAPH = 8
TESTED = 500  # of the halves


class Texts(NamedTuple):
    """Dicts from a language to its texts; the i-th ones of all languages belong together."""

    train: dict[str, list[str]]
    test: dict[str, list[str]]


def languages(data):
    """The languages of ``--data``; a ValueError where there is no such data."""
    check_choice("--data", data, NAMES)
    return LANGUAGES[data]


def load(args):
    """The `Texts` of ``--data``.

    Raises:
        ValueError: If the languages have unequal numbers of texts.
        FileNotFoundError: If a file is missing; it says where to get it.
    """
    if args.data == "halves":
        return halves()
    parts = [
        {name: _captions(args, part, name) for name in languages(args.data)}
        for part in ("train", "test_2016_flickr")
    ]
    for part in parts:
        check_paired(part)
    return Texts(*parts)


def english(args):
    """The English texts of ``--data`` to train with: documentation, or captions.

    Raises:
        ValueError: If there is no such data.
        FileNotFoundError: If the file is missing; it says where to get it.
    """
    check_choice("--data", args.data, ENGLISH)
    return paragraphs() if args.data == "documentation" else _captions(args, "train", "en")


def halves():
    """Both halves of each longer text on a function or class of the installed packages."""
    words = [text.split() for text in sorted(_documentation())]
    words = [each for each in words if len(each) >= FEWEST_WORDS]
    order = np.random.default_rng(0).permutation(len(words))
    cut = [
        (" ".join(words[i][: len(words[i]) // 2]), " ".join(words[i][len(words[i]) // 2 :]))
        for i in order
    ]
    both = dict(zip(LANGUAGES["halves"], map(list, zip(*cut, strict=True)), strict=True))
    return Texts(
        {name: texts[:-TESTED] for name, texts in both.items()},
        {name: texts[-TESTED:] for name, texts in both.items()},
    )


def paragraphs():
    """The longer paragraphs of the texts on the installed packages, each once, mixed."""
    found = {" ".join(part.split()) for text in _documentation() for part in text.split("\n\n")}
    found = sorted(part for part in found if part.count(" ") + 1 >= FEWEST_IN_PARAGRAPH)
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def check_paired(texts):
    """Raise unless all languages have as many texts."""
    counts = {language: len(lines) for language, lines in texts.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "The languages do not pair. Expected as many texts in each, line by line of the same. "
            f"Received: {counts}. Leave out the lines that one of them lacks."
        )


def _captions(args, part, language):
    folder = pathlib.Path(args.data_dir or os.environ.get("TFDS_DATA_DIR", ".")) / "multi30k"
    path = folder / f"{part}.{language}.gz"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}. Expected the captions of Multi30k in the folder 'multi30k' "
            "of --data-dir or TFDS_DATA_DIR; where they are from is in examples/text_data.py. "
            "Without --data, the example runs on texts that need no download."
        )
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def _documentation():
    """The different texts on what the packages hold, and on the methods of their classes."""
    texts = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that will go
        for name in DOCUMENTED:
            module = importlib.import_module(name)
            for public in _public(module):
                texts.add(inspect.getdoc(public))
                if inspect.isclass(public):
                    texts.update(map(inspect.getdoc, _public(public)))
    return texts - {None}


def _public(holder):
    named = (getattr(holder, name, None) for name in dir(holder) if not name.startswith("_"))
    return [each for each in named if callable(each)]
