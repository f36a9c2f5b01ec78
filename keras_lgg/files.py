"""Files and folders that are whole or not there, and that are checked when they are read.

They are written beside their place and renamed. A folder keeps a manifest: a file of JSON with the
size and the checksum of each other file, with what the folder was written from, and with a checksum
of its own.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from keras_lgg.types import PathLike

MANIFEST = "manifest.json"


@contextlib.contextmanager
def beside(path: PathLike) -> Iterator[pathlib.Path]:
    """A path beside another one, to write a file or a folder to, which is renamed in the end.

    A file takes the place of the one that was there. A folder does not. What a process left that
    was killed while it wrote is written anew.

    Args:
        path: Where the file or the folder belongs; folders above it are made.

    Example:
        >>> import pathlib, tempfile
        >>> from keras_lgg.files import beside
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with beside(folder / "a.txt") as unfinished:
        ...     _ = unfinished.write_text("whole")
        >>> [path.name for path in folder.iterdir()]
        ['a.txt']
    """
    path = pathlib.Path(os.path.realpath(path))  # a link goes on to be one
    # In front of the name: what writes a file may read its kind from the end.
    unfinished = path.with_name(f"unfinished_{path.name}")
    remove(unfinished)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        for file in _files_in(unfinished) if unfinished.is_dir() else [unfinished]:
            _sync(file)
        unfinished.replace(path)
    except BaseException:
        remove(unfinished)
        raise


def remove(path: pathlib.Path) -> None:
    """Remove a file, or a folder with all in it, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_manifest(folder: pathlib.Path, facts: dict[str, Any]) -> None:
    """Write down what files a folder has, and the facts, which are of what JSON knows."""
    content = {
        "files": {
            file.relative_to(folder).as_posix(): [file.stat().st_size, checksum(file)]
            for file in _files_in(folder)
            if file != folder / MANIFEST
        },
        "facts": facts,
    }
    text = json.dumps({**content, "checksum": _checksum_of(content)}, indent=2)
    with beside(folder / MANIFEST) as unfinished:
        unfinished.write_text(text)


def checked_facts(folder: pathlib.Path, what: str, advice: str) -> dict[str, Any]:
    """The facts of a folder, all files of which are as they were written.

    Args:
        folder: Path of the folder.
        what: What the folder is, which begins the errors.
        advice: What to do where it is damaged, which ends them.

    Raises:
        ValueError: If a file is missing, was changed or has been added.
    """
    content = _manifest(folder, what, advice)
    there = {file.relative_to(folder).as_posix() for file in _files_in(folder)} - {MANIFEST}
    for name, (size, digest) in content["files"].items():
        wanted = f"the file '{name}' of {size} bytes, as it was written"
        if name not in there:
            raise _damaged(folder, what, wanted, "no such file", advice)
        found = (folder / name).stat().st_size
        if found != size:
            raise _damaged(folder, what, wanted, f"one of {found} bytes", advice)
        if checksum(folder / name) != digest:
            raise _damaged(folder, what, wanted, "one of other bytes", advice)
    added = sorted(there - set(content["files"]))
    if added:
        raise _damaged(
            folder, what, "no files but those that were written", f"'{added[0]}', too", advice
        )
    return content["facts"]


def checksum(file: pathlib.Path) -> str:
    """A digest of what a file holds."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _manifest(folder, what, advice):
    """What a manifest says, if it is as it was written."""
    if not (folder / MANIFEST).is_file():
        raise _damaged(folder, what, f"a file '{MANIFEST}' in it", "none", advice)
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        written = content.pop("checksum")
    except (ValueError, AttributeError, TypeError, KeyError):  # bytes that are no such text
        content, written = None, ""
    if _checksum_of(content) != written:
        wanted = f"the file '{MANIFEST}' as it was written"
        raise _damaged(folder, what, wanted, "one of other bytes", advice)
    return content


def _checksum_of(content):
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _damaged(folder, what, expected, received, advice):
    return ValueError(
        f"{what} '{folder}' is damaged. Expected {expected}. Received: {received}. {advice}"
    )


def _files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(file):
    """Let the bytes be on the disk before the name is, also where the machine loses its power."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
