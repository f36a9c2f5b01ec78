"""A file or a folder is whole or not there; a folder that was changed is not read."""

import contextlib
import pathlib
import re

import pytest
from damage import HARMS, cut, flip

from keras_lgg import files

pytestmark = pytest.mark.once


class KilledError(Exception):
    pass


def kill(*args, **kwargs):
    raise KilledError


def write_folder(path):
    with files.beside(path) as unfinished:
        (unfinished / "inner").mkdir(parents=True)
        (unfinished / "a.txt").write_text("first")
        (unfinished / "inner" / "b.bin").write_bytes(bytes(range(100)))
        files.write_manifest(unfinished, {"number": 3})


def read_folder(path):
    return files.checked_facts(path, "The folder", "Write it anew.")


class TestBeside:
    def test_a_file_takes_the_place_of_another_one(self, tmp_path):
        path = tmp_path / "new" / "a.txt"
        for text in ("first", "second"):
            with files.beside(path) as unfinished:
                unfinished.write_text(text)
                assert unfinished.suffix == ".txt"
            assert path.read_text() == text
            assert list(path.parent.iterdir()) == [path]

    def test_what_raises_leaves_everything_as_it_was(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("before")
        with contextlib.suppress(KilledError), files.beside(path) as unfinished:
            unfinished.write_text("half")
            kill()
        assert path.read_text() == "before"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
    def test_what_a_kill_left_is_not_in_the_way(self, moment, tmp_path, monkeypatch):
        path = tmp_path / "folder"
        with monkeypatch.context() as patch:
            patch.setattr(moment, kill)
            patch.setattr(files, "remove", lambda path: None)
            with pytest.raises(KilledError):
                write_folder(path)
        (left,) = tmp_path.iterdir()
        assert left != path
        (left / "of_another_time.txt").write_text("old")
        write_folder(path)
        assert list(tmp_path.iterdir()) == [path]
        assert read_folder(path) == {"number": 3}

    def test_a_folder_is_not_written_over(self, tmp_path):
        write_folder(tmp_path / "folder")
        with pytest.raises(OSError):  # noqa: PT011 (the words are of the system)
            write_folder(tmp_path / "folder")
        assert read_folder(tmp_path / "folder") == {"number": 3}

    def test_a_link_stays_one(self, tmp_path):
        (tmp_path / "far").mkdir()
        (tmp_path / "a.txt").symlink_to(tmp_path / "far" / "a.txt")
        with files.beside(tmp_path / "a.txt") as unfinished:
            unfinished.write_text("text")
        assert (tmp_path / "a.txt").is_symlink()
        assert (tmp_path / "far" / "a.txt").read_text() == "text"


class TestChecked:
    @pytest.fixture
    def folder(self, tmp_path):
        write_folder(tmp_path / "folder")
        return tmp_path / "folder"

    def test_whole(self, folder):
        assert read_folder(folder) == {"number": 3}
        assert read_folder(folder.rename(folder.with_name("elsewhere"))) == {"number": 3}

    @pytest.mark.parametrize("name", ["a.txt", "inner/b.bin", files.MANIFEST])
    @pytest.mark.parametrize("harm", HARMS)
    def test_damaged(self, name, harm, folder):
        HARMS[harm](folder / name)
        came = {"cut": r"one of \d+ bytes", "flipped": "one of other bytes", "missing": "no"}[harm]
        if name == files.MANIFEST:
            came = "no" if harm == "missing" else "one of other bytes"
        message = rf"The folder '.*folder' is damaged\. Expected .*'{name}'.*Received: {came}"
        with pytest.raises(ValueError, match=message + r".*Write it anew\."):
            read_folder(folder)

    @pytest.mark.parametrize("place", [0, 0.01, 0.3, 0.999])
    @pytest.mark.parametrize("harm", [flip, cut])
    def test_wherever_it_is(self, place, harm, folder):
        for path in [path for path in folder.rglob("*.*") if path.is_file()]:
            whole = path.read_bytes()
            harm(path, place)
            with pytest.raises(ValueError, match=rf"damaged.*{path.name}"):
                read_folder(folder)
            path.write_bytes(whole)

    def test_every_bit_of_a_manifest_counts(self, folder):
        path = folder / files.MANIFEST
        whole = path.read_bytes()
        for place, byte in enumerate(whole):
            path.write_bytes(whole[:place] + bytes([byte ^ 2]) + whole[place + 1 :])
            with pytest.raises(ValueError, match="damaged"):
                read_folder(folder)

    def test_a_file_too_many(self, folder):
        (folder / "inner" / "c.bin").write_bytes(b"")
        message = r"no files but those.*Received: 'inner/c\.bin', too"
        with pytest.raises(ValueError, match=message):
            read_folder(folder)

    def test_a_manifest_of_something_else(self, folder):
        for text in ("[]", "3", "{}", '"text"', "null", '{"checksum": 3}'):
            (folder / files.MANIFEST).write_text(text)
            with pytest.raises(ValueError, match=re.escape(files.MANIFEST)):
                read_folder(folder)


def test_a_checksum_is_of_the_bytes_alone(tmp_path):
    paths = [pathlib.Path(tmp_path / name) for name in "ab"]
    for path in paths:
        path.write_bytes(b"same")
    assert len({files.checksum(path) for path in paths}) == 1
    flip(paths[0])
    assert len({files.checksum(path) for path in paths}) == 2
