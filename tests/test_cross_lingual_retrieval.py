"""Captions, their encoders, and what may be shown of them: on small cases."""

import gzip
from types import SimpleNamespace

import numpy as np
import pytest
from autodiff import BACKEND

pytest.importorskip("pandas", reason="the examples need the extra examples")
pytest.importorskip("sklearn", reason="the examples need the extra text")

import cross_lingual_retrieval as example
import text_data
import text_encoders
from progress import Progress

LANGUAGES = text_data.LANGUAGES["multi30k"]


def write(folder, part, lines):
    """Captions as the data set has them, a file a language."""
    (folder / "multi30k").mkdir(exist_ok=True)
    for language in LANGUAGES:
        path = folder / "multi30k" / f"{part}.{language}.gz"
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write("".join(f"{line} ({language})\n" for line in lines))


def read(folder, validate=False):
    given = {"data": "multi30k", "data_dir": str(folder), "validate": validate}
    return text_data.load(SimpleNamespace(**given))


@pytest.mark.once
class TestCaptions:
    def test_by_hand(self, tmp_path):
        for part, lines in (("train", ["Ein Hund", "Žlutý"]), ("test_2016_flickr", ["Où"])):
            write(tmp_path, part, lines)
        texts = read(tmp_path)
        assert texts.train["cs"] == ["Ein Hund (cs)", "Žlutý (cs)"]
        assert texts.test == {language: [f"Où ({language})"] for language in LANGUAGES}
        write(tmp_path, "val", ["Deux", "Trois"])
        assert read(tmp_path, validate=True).test["fr"] == ["Deux (fr)", "Trois (fr)"]
        assert read(tmp_path, validate=True).train == texts.train

    def test_files_that_will_not_do(self, tmp_path):
        write(tmp_path, "train", ["A", "B"])
        with pytest.raises(FileNotFoundError, match=r"test_2016_flickr.en.gz.*text_data.py"):
            read(tmp_path)
        write(tmp_path, "test_2016_flickr", ["A", "B"])
        with gzip.open(tmp_path / "multi30k" / "test_2016_flickr.de.gz", "wt") as file:
            file.write("A\n")
        message = r"do not pair.*'en': 2, 'de': 1, 'fr': 2.*Leave out the lines"
        with pytest.raises(ValueError, match=message):
            read(tmp_path)

    def test_a_record_quotes_no_caption(self):
        args = SimpleNamespace(data="multi30k", record="page.md")
        assert example.quotable(args, ["Ein Hund", "Zwei"]) == ["caption 1", "caption 2"]
        for shown in ({"data": "halves"}, {"record": None}):
            args = SimpleNamespace(**{"data": "multi30k", "record": "page.md", **shown})
            assert example.quotable(args, ["Ein Hund"]) == ["Ein Hund"]

    def test_only_captions_have_a_validation_split(self, capsys):
        with pytest.raises(SystemExit):
            example.parse(["--validate"])
        assert "--validate is for --data multi30k" in capsys.readouterr().err


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:Layer 'position_embedding'")  # KerasHub's, of its mask
@pytest.mark.skipif(BACKEND != "tensorflow", reason="examples run on one backend")
def test_the_transformer_learns_what_texts_are_about():
    """Of five subjects that share no word, from texts alone; a text is by the nearest other."""
    pytest.importorskip("keras_hub", reason="the transformer needs the extra text")
    rng = np.random.default_rng(0)
    subjects = rng.integers(0, 5, 400)
    words = [[f"{a}{b}" for b in ("ba", "ke", "lo", "mi", "nu", "pa")] for a in "vwxyz"]
    texts = [" ".join(rng.choice(words[i], 4)) for i in subjects]
    logs = []
    progress = Progress()
    progress.on_epoch_end = lambda epoch, found: logs.append(found["loss"])
    args = SimpleNamespace(vocabulary=100, batch_size=32, epochs=4, progress=progress)
    encode = text_encoders.transformer(texts[:300], args, seed=0)
    assert logs[-1] < 0.8 * logs[0]
    known, asked = encode(texts[:300]), encode(texts[300:])
    assert known.shape == (300, text_encoders.WIDTH)
    found, _ = example.retrieval.neighbours(asked, known, k=1)
    assert np.mean(subjects[found[:, 0]] == subjects[300:]) > 0.95
