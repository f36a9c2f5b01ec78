"""The documentation: all of the public names, all code run, no broken link, nothing from afar."""

import html.parser
import os
import pathlib
import re
import subprocess
import sys
import types
import urllib.parse

import pytest
from autodiff import BACKEND
from public import PUBLIC

import keras_lgg as lgg

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
# What may stand behind the fence of a block; Python that a reader would copy is executed.
BLOCKS = {"", "sh", "text", "{code-cell}", "{container}", "{include}", "{raw}", "{toctree}"}


def public_names():
    """Full names: those of the tests of the public face, and those of every ``__all__``."""
    values = [getattr(lgg, name) for name in lgg.__all__]
    modules = [lgg, *filter(is_module, values)]
    names = {f"{m.__name__}.{name}" for m, listed in PUBLIC.items() for name in listed}
    for module in modules:
        for name in getattr(module, "__all__", ()):
            if not is_module(getattr(module, name)):
                names.add(f"{module.__name__}.{name}")
    return names - {f"keras_lgg.{name}" for name in functions_of_subjects()}


def functions_of_subjects():
    """Names at the top of the package that a subject shows, too: they are described there."""
    values = {name: getattr(lgg, name) for name in lgg.__all__}
    subjects = [value for value in values.values() if is_module(value)]
    return {
        name
        for name, value in values.items()
        if any(getattr(s, name, None) is value and name in s.__all__ for s in subjects)
    }


def is_module(value):
    return isinstance(value, types.ModuleType)


def documented_names():
    """Of each page of the reference, the full names behind its directives."""
    for page in sorted((DOCS / "api").glob("*.rst")):
        text = page.read_text()
        (module,) = re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)
        for name in re.findall(r"^\.\. auto(?:class|function):: (\S+)$", text, re.MULTILINE):
            yield f"{module}.{name}"


def test_every_public_name_is_documented_once():
    documented = list(documented_names())
    assert public_names() - set(documented) == set(), "to be added to a page of docs/api"
    assert set(documented) - public_names() == set(), "not public, or not in test_public_api"
    assert len(documented) == len(set(documented))
    listed = (DOCS / "api" / "index.md").read_text()
    assert all(f"({page.name})" in listed for page in (DOCS / "api").glob("*.rst"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_python_code_is_executed(page):
    text = page.read_text()
    fences = re.findall(r"^ *(`{3,}|~{3,}|:{3,}) *(\S*)[^`\n]*$", text, re.MULTILINE)
    kinds = {kind for _, kind in fences}
    assert kinds <= BLOCKS, "Python in a {code-cell}, so that the build runs it"
    if "{code-cell}" in kinds:
        assert text.startswith("---\nfile_format: mystnb\n"), "else no cell is executed"
    assert "skip-execution" not in text
    assert "raises-exception" not in text


def test_the_build_executes_all_pages():
    conf = (DOCS / "conf.py").read_text()
    assert 'nb_execution_mode = "force"' in conf
    assert "nb_execution_excludepatterns" not in conf
    assert "nb_execution_allow_errors" not in conf


class Page(html.parser.HTMLParser):
    """What a built page links to, what it loads, and the places in it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.places = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places |= {attrs.get("id"), attrs.get("name")}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        loads = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
        if attrs.get(loads.get(tag)):
            self.loaded.append(attrs[loads[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: a dict from each page's path to what is in it."""
    folder = tmp_path_factory.mktemp("site")
    command = f"{sys.executable} -m sphinx -W --keep-going -q -j 2 -d {folder}/doctrees"
    built = subprocess.run(
        [*command.split(), str(DOCS), str(folder / "html")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-5000:]
    return {path: Page(path) for path in (folder / "html").rglob("*.html")}


@pytest.mark.ci
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the site is built once")
def test_the_site_is_built_whole(site):
    root = min(site, key=lambda path: len(path.parts)).parent
    for path, page in site.items():
        for target in page.links + page.loaded:
            url = urllib.parse.urlsplit(target)
            if url.scheme or url.netloc:
                assert target in page.links, f"{path.name} loads {target}"
                continue
            there = path if not url.path else path.parent / urllib.parse.unquote(url.path)
            there = there.resolve()
            assert there.is_file(), f"{path.name}: {target}"
            if url.fragment and there in site:
                assert urllib.parse.unquote(url.fragment) in site[there].places, (
                    f"{path.name}: {target}"
                )
    names = {place for page in site.values() for place in page.places}
    assert public_names() <= names
    assert all((root / page.relative_to(DOCS).with_suffix(".html")) in site for page in PAGES)
