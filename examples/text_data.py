"""Texts of the examples: line by line in several languages, some with classes; or in English.

    halves      needs no download: what the installed packages say of their functions and classes
                (NumPy, SciPy, pandas, scikit-learn, Matplotlib, Keras), cut in the middle. The
                "languages" are the first and the second half: different sentences on the same
                thing, in the same English, so less alike than translations. The texts depend on
                the installed versions. The classes are the package (coarse) and the module (fine),
                which many of the texts name.
    documentation
                needs no download: the paragraphs of the same texts, only in English, with their
                lists of arguments and lines of code, each paragraph once.
    multi30k    captions of 30,000 pictures in English, German, French and Czech (Elliott et al.,
                "Multi30K: multilingual English-German image descriptions", 2016, and the shared
                tasks of 2017 and 2018), as at https://github.com/multi30k/dataset: the files
                ``{train,val,test_2016_flickr}.{en,de,fr,cs}.gz`` of its folder
                ``data/task1/raw``, for research.
    trec        5,444 questions to train with and 499 to test, in English and Hindi, each with one
                of 6 coarse and 50 fine classes of question (Li and Roth, "Learning question
                classifiers", COLING 2002; the translation is that of
                https://github.com/tmadhuri/TREC-HindiData). ``train.tsv`` and ``test.tsv``, in
                UTF-8, have a header and four columns, separated by tabs and without quotation
                marks: coarse, fine (``NUM``, ``NUM:date``), english, hindi.

The latter two are read from the folders ``multi30k`` and ``trec`` in ``--data-dir``, or in
``TFDS_DATA_DIR``.
"""

import gzip
import importlib
import inspect
import os
import pathlib
import warnings
from typing import NamedTuple

import numpy as np

from keras_lgg.checks import check_choice, invalid

NAMES = ("halves", "multi30k", "trec")
WITH_CLASSES = ("halves", "trec")
LANGUAGES = {
    "halves": ("first half", "second half"),
    "multi30k": ("en", "de", "fr", "cs"),
    "trec": ("English", "Hindi"),
}
COLUMNS = ("coarse", "fine", "english", "hindi")  # of TREC
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
HELD_OUT = 10  # the part of the training texts that settings are chosen by, one of so many


class Texts(NamedTuple):
    """Dicts from a language to its texts; the i-th ones of all languages belong together."""

    train: dict[str, list[str]]
    test: dict[str, list[str]]


class Classes(NamedTuple):
    """Integers from 0, one for each text; the fine ones are parts of the coarse ones."""

    coarse: np.ndarray
    fine: np.ndarray


def languages(data):
    """The languages of ``--data``; a ValueError where there is no such data."""
    check_choice("--data", data, NAMES)
    return LANGUAGES[data]


def load(args):
    """The `Texts` of ``--data``; with --validate, those to find are of the validation split.

    Raises:
        ValueError: If the languages have unequal numbers of texts.
        FileNotFoundError: If a file is missing; it says where to get it.
    """
    if args.data in WITH_CLASSES:
        return with_classes(args)[0]
    parts = [
        {name: _captions(args, part, name) for name in languages(args.data)}
        for part in ("train", "val" if args.validate else "test_2016_flickr")
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


def with_classes(args):
    """The `Texts` of ``--data``, and the `Classes` of both parts.

    Raises:
        ValueError: If these texts have no classes, a line lacks a language or a class, or a class
            of the test texts is none of the training texts'.
        FileNotFoundError: If a file is missing; it says where to get it.
    """
    check_choice("--data", args.data, WITH_CLASSES)
    if args.data == "halves":
        parts = halves()
    else:
        parts = [questions(_folder(args) / f"{part}.tsv") for part in ("train", "test")]
    texts, names = zip(*parts, strict=True)
    return Texts(*texts), *_integers(*names)


def held_out(labels, seed):
    """Indices of training texts to train with, and of a tenth of every class to choose by."""
    mixed = np.random.default_rng(seed).permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    is_out = np.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
    return by_class[~is_out], by_class[is_out]


def halves():
    """Training and test part: both halves of longer texts on what packages hold, and `Classes`."""
    documented = _documentation()
    texts = [text for text in sorted(documented) if len(text.split()) >= FEWEST_WORDS]
    texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    for part in (texts[:-TESTED], texts[-TESTED:]):
        words = [text.split() for text in part]
        cut = [(each[: len(each) // 2], each[len(each) // 2 :]) for each in words]
        both = zip(LANGUAGES["halves"], zip(*cut, strict=True), strict=True)
        modules = [documented[text] for text in part]
        packages = [module.partition(".")[0] for module in modules]
        yield {name: list(map(" ".join, half)) for name, half in both}, Classes(packages, modules)


def questions(path):
    """The texts of a file of TREC, by language, and the names of their `Classes`."""
    _check_is_file(path)
    header, *rows = (line.split("\t") for line in path.read_text("utf-8").rstrip().split("\n"))
    for number, row in enumerate([header, *rows], start=1):
        if len(row) != len(COLUMNS) or not all(map(str.strip, row)):
            raise ValueError(
                f"Line {number} of {path} does not pair. Expected {', '.join(COLUMNS)}, with a tab "
                f"between them and none empty. Received: {row}. Leave out a question that one of "
                "the languages lacks."
            )
    if tuple(header) != COLUMNS:
        expected = f"a header {', '.join(COLUMNS)} in {path}, with a tab between them"
        raise invalid("--data-dir", expected, repr(header))
    coarse, fine, *texts = map(list, zip(*rows, strict=True))
    return dict(zip(LANGUAGES["trec"], texts, strict=True)), Classes(coarse, fine)


def _integers(train, test):
    """The `Classes` of both parts as integers, from their names."""
    numbered = []
    for names, others in zip(train, test, strict=True):
        known = {name: i for i, name in enumerate(sorted(set(names)))}
        if not set(others) <= set(known):
            expected = f"test texts of the {len(known)} classes of the training texts"
            raise invalid("--data", expected, f"{sorted(set(others) - set(known))}, too")
        numbered.append([np.array([known[name] for name in part]) for part in (names, others)])
    return [Classes(*part) for part in zip(*numbered, strict=True)]


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


def _folder(args):
    return pathlib.Path(args.data_dir or os.environ.get("TFDS_DATA_DIR", ".")) / args.data


def _check_is_file(path):
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}. Expected the texts in a folder '{path.parent.name}' of "
            "--data-dir or TFDS_DATA_DIR; where they are from is in examples/text_data.py. "
            "Without --data, the example runs on texts that need no download."
        )


def _captions(args, part, language):
    path = _folder(args) / f"{part}.{language}.gz"
    _check_is_file(path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def _documentation():
    """The different texts on what the packages hold, and on the methods of their classes.

    A dict from a text to the first module that has it.
    """
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that will go
        for name in DOCUMENTED:
            module = importlib.import_module(name)
            for public in _public(module):
                for each in (public, *(_public(public) if inspect.isclass(public) else ())):
                    found.setdefault(inspect.getdoc(each), name)
    found.pop(None, None)
    return found


def _public(holder):
    named = (getattr(holder, name, None) for name in dir(holder) if not name.startswith("_"))
    return [each for each in named if callable(each)]
