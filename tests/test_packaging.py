"""The distributions that an index would get: their files, their metadata, their page."""

import email
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from packaging.version import Version

import keras_lgg as lgg

pytest.importorskip("build", reason="needs the extra test")
pytest.importorskip("twine", reason="needs the extra test")
pytestmark = [pytest.mark.ci, pytest.mark.once]
ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ["benchmarks", "docs", "examples", "keras_lgg", "tests"]
TOP = ["CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md"]
TOP += ["pyproject.toml", "setup.py"]
NAME = f"keras_lgg-{lgg.__version__}"


def run(*command, cwd):
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def source_files():
    """What belongs to the project: no caches, no built pages."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in found]
    made = re.compile(r"__pycache__|^docs/(_build|api/generated)/|/\.")
    return {name for name in names if not made.search(name)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a source distribution, and of a wheel that was built from it."""
    checkout = tmp_path_factory.mktemp("packaging") / "checkout"
    for name in [*source_files(), *TOP, ".ci/run"]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    for stray in ("keras_lgg/__pycache__/a.pyc", "tests/__pycache__/b.pyc", "docs/_build/c.html"):
        (checkout / stray).parent.mkdir()
        (checkout / stray).touch()
    run("build", "--no-isolation", cwd=checkout)  # with the setuptools that is installed
    return checkout / "dist"


@pytest.fixture(scope="module")
def metadata(built):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        return email.message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))


def test_wheel_holds_the_package_alone(built):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        assert wheel.read(f"{NAME}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    info = {name for name in names if name.startswith(f"{NAME}.dist-info/")}
    assert names - info == {name for name in source_files() if name.startswith("keras_lgg/")}


def test_source_distribution_holds_what_builds_and_tests_it(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        names = {m.name.removeprefix(f"{NAME}/") for m in archive.getmembers() if m.isfile()}
    generated = {name for name in names if name.startswith("keras_lgg.egg-info/")}
    assert names - generated == source_files() | {*TOP, ".ci/run", "PKG-INFO", "setup.cfg"}


def test_index_accepts_them(built):
    files = sorted(path.name for path in built.iterdir())
    assert files == [f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"]
    assert run("twine", "check", "--strict", *files, cwd=built).count("PASSED") == 2


def test_metadata(metadata):
    assert metadata["Name"] == "keras_lgg"
    assert metadata["Version"] == lgg.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    oldest = metadata["Requires-Python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in metadata.get_all("Classifier")
    core = {r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r}
    assert {re.match(r"[\w-]+", r)[0] for r in core} == {"keras", "numpy", "tensorflow"}


def test_page_has_no_links_to_files(metadata):
    """An index shows the README without the files beside it."""
    page = metadata.get_payload()
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert targets
    assert all(target.startswith("https://") for target in targets)
    assert "what runs where (`docs/backends.md`)" in page
    assert "attacks (`docs/results/records/results_robustness_mnist_preact_resnet18.png`)" in page


def test_oldest_versions_are_the_lower_bounds():
    """What `tests/oldest.txt` pins, for the tests that it describes, is what setup.py allows."""
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "setup.py").read_text()))
    assert {"keras", "tensorflow", "numpy", "jax"} <= set(pins)
    for name, version in pins.items():
        assert Version(version) == Version(bounds[name]), name
