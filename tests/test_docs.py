"""The documentation: all of the public names, all code run, no broken link, nothing from afar."""

import ast
import html.parser
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import types
import urllib.parse

import api_reference
import execution
import gallery
import nbformat
import notebooks
import pytest
from autodiff import BACKEND
from public import PUBLIC
from sphinx.search.en import SearchEnglish

import keras_lgg as lgg
from keras_lgg import robustness

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
# By a need of the start page: whether a page has its code.
NEEDS = {
    "My classifier must withstand noise": "robustness.evaluate",
    "A small model like a large one": "Distiller",
    "Find similar items": "GraphSmoothness",
    "A French encoder with an English head": "RelativeRepresentation",
    "Why did my network collapse?": "explore",
}
# What a reader types, and the page that answers.
SEARCHES = {
    "recall": "api/retrieval",
    "mask": "faq",
    "padding": "faq",
    "transformer": "faq",
    "subclass": "faq",
    "NaN": "faq",
    "weight": "which_loss",
}
# What most readers come for: some tutorial or example uses each.
IMPORTANT = [
    *("GeometryModel", "Distiller", "Penalty", "compare", "explore", "teacher_cache"),
    *("losses.GraphDistillation", "losses.RelationalDistance", "losses.GraphSmoothness"),
    *("losses.TargetGraph", "losses.SmoothnessVariation", "losses.GraphVariation"),
    *("layers.GeometryPenalty", "layers.RelativeRepresentation", "callbacks.GeometryMonitor"),
    *("relative.select_anchors", "relative.stitch", "relative.stitching_matrix"),
    *("relative.Procrustes", "robustness.evaluate", "retrieval.evaluate"),
    *("tuning.search_penalty_weights", "manifolds.characterize", "constraints.Parseval"),
]
# What may stand behind the fence of a block; Python that a reader would copy is executed.
BLOCKS = {"", "sh", "text", "{code-cell}", "{container}", "{example}", "{gallery}"}
BLOCKS |= {"{include}", "{index}", "{raw}", "{toctree}"}


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


# Subjects whose names have formulas, but for these; a formula has a source.
MATHEMATICS = [lgg.constraints, lgg.graphs, lgg.losses, lgg.manifolds, lgg.relative, lgg.retrieval]
IN_WORDS = {"GeometryLoss", "LatentManifold", "Level", "ManifoldReport"}
NAMES = [(module, name) for module, names in PUBLIC.items() for name in names]


@pytest.mark.once
@pytest.mark.parametrize(
    ("module", "name"), NAMES, ids=[f"{module.__name__}.{name}" for module, name in NAMES]
)
def test_a_docstring_stands_alone(module, name):
    text = inspect.getdoc(getattr(module, name))
    assert ">>> " in text
    assert not re.search(r"^ +\w+: See `", text, re.MULTILINE), "in its own words"
    assert not re.search(r"^Reference: \[\d", text, re.MULTILINE), "written out"
    if module in MATHEMATICS and name not in IN_WORDS:
        assert ".. math::" in text or ":math:`" in text
        assert "\nReference" in text or name == "pairwise_distances"


@pytest.mark.once
def test_what_matters_most_is_used_on_pages():
    for name in IMPORTANT:
        thing = api_reference.imported(f"keras_lgg.{name}")
        users = [page for page in gallery.pages() if any(u is thing for u in gallery.uses(page))]
        assert users, name


def is_module(value):
    return isinstance(value, types.ModuleType)


def documented_names():
    """Of each page of the reference, the full names in its tables."""
    for page in sorted((DOCS / "api").glob("*.rst")):
        text = page.read_text()
        (module,) = re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)
        for table in re.findall(r"^\.\. autosummary::\n((?: .*\n|\n)+)", text, re.MULTILINE):
            for name in re.findall(r"^ +(\w+)$", table, re.MULTILINE):
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
    code = re.compile(r"^ *(`{3,}).*?^ *\1$", re.MULTILINE | re.DOTALL)
    assert not re.search(r"^ *%", code.sub("", text), re.MULTILINE), "MyST takes % for a comment"
    assert "skip-execution" not in text
    assert "raises-exception" not in text


def test_the_build_executes_all_pages():
    conf = (DOCS / "conf.py").read_text()
    assert 'nb_execution_mode = "cache"' in conf
    assert "nb_execution_excludepatterns" not in conf
    assert "nb_execution_allow_errors" not in conf


def test_what_was_executed_is_kept_while_the_package_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "DOCS", tmp_path / "docs")
    module = tmp_path / "keras_lgg" / "losses" / "base.py"
    module.parent.mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "matplotlibrc").touch()
    module.write_text("a = 1\n")
    before = execution.fingerprint(tmp_path / "keras_lgg")
    assert execution.fingerprint(tmp_path / "keras_lgg") == before
    assert execution.fingerprint(tmp_path / "keras_lgg", ("numpy",)) != before
    module.write_text("a = 2\n")
    assert execution.fingerprint(tmp_path / "keras_lgg") != before


def test_each_example_has_a_page_in_the_gallery():
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    runnable = {name for name in scripts if "--quick" in (ROOT / "examples" / name).read_text()}
    assert {page.script for page in gallery.pages() if page.script} == runnable - {"common.py"}
    listed = (DOCS / "gallery" / "index.md").read_text()
    for page in gallery.pages():
        assert re.search(rf"^{page.name}$", listed, re.MULTILINE), page.name
        assert "```{example}\n```" in page.text, page.name
        assert 0 < len(page.summary) <= 70, page.name
        if page.script:
            for heading in ("What it gains", "Use it when", "Do not use it when", "Run it"):
                assert f"\n## {heading}\n" in page.text, page.name


def test_the_notebooks_are_those_of_the_pages():
    kept = {path: path.read_text() for path in notebooks.NOTEBOOKS.rglob("*.ipynb")}
    made = {
        notebooks.NOTEBOOKS / f"{page.name}.ipynb": nbformat.writes(notebooks.notebook(page)) + "\n"
        for page in gallery.pages()
    }
    assert kept == made, "python docs/extensions/notebooks.py"


def test_code_of_a_notebook_is_python():
    for page in gallery.pages():
        for cell in notebooks.notebook(page).cells:
            if cell.cell_type == "code":
                ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE))
            else:
                assert not re.search(r"\{[\w:]+\}`|^[`:]{3,}\{", cell.source, re.MULTILINE), (
                    page.name
                )


def test_a_use_is_found_however_it_is_written():
    text = """
import keras_lgg as lgg
from keras_lgg import robustness
from keras_lgg.losses import GraphDistillation as GKD

def main():
    lgg.compare(GKD(), lgg.losses.TargetGraph().name)
    robustness.evaluate(None, other.losses.GraphSmoothness)
"""
    page = gallery.Page("tutorials/x", "", "", None, None, "", f"```{{code-cell}}\n{text}```\n")
    expected = [
        lgg.losses.GraphDistillation,
        lgg.compare,
        lgg.losses.TargetGraph,
        robustness.evaluate,
    ]
    found = gallery.uses(page)
    assert all(any(value is thing for thing in found) for value in expected)
    assert not any(thing is lgg.losses.GraphSmoothness for thing in found)


class Page(html.parser.HTMLParser):
    """What a built page links to, what it loads, and the places in it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.places = [], [], set()
        self.named_links, self.code = [], []
        self.link, self.in_code = None, False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places |= {attrs.get("id"), attrs.get("name")}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
            self.link = attrs["href"]
            self.named_links.append((attrs["href"], ""))
        if tag == "pre":
            self.in_code = True
            self.code.append("")
        loads = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
        if attrs.get(loads.get(tag)):
            self.loaded.append(attrs[loads[tag]])

    def handle_endtag(self, tag):
        self.link = None if tag == "a" else self.link
        self.in_code = self.in_code and tag != "pre"

    def handle_data(self, data):
        if self.link is not None:
            self.named_links[-1] = (self.link, self.named_links[-1][1] + data)
        if self.in_code:
            self.code[-1] += data


def search(index, word):
    """Pages that the search of the site lists for a word, the best first: a part of its rules."""
    found = json.loads(index.read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    stem = SearchEnglish({}).stem(word.lower())
    scores = {}
    for score, files in (
        (5, found["terms"].get(stem, [])),
        (15, found["titleterms"].get(stem, [])),
        (100, [f for f, _, is_main in found["indexentries"].get(word.lower(), []) if is_main]),
    ):
        scores |= dict.fromkeys([files] if isinstance(files, int) else files, score)
    return [found["docnames"][file] for file in sorted(scores, key=lambda file: -scores[file])]


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
    for path in (root / "api").rglob("*.html"):
        assert not re.search(r"keras\.src|_SupportsArray|numpy\._typing", path.read_text()), (
            path.name
        )


@pytest.mark.ci
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the site is built once")
@pytest.mark.parametrize("need", NEEDS)
def test_code_is_two_clicks_from_the_start(site, need):
    root = min(site, key=lambda path: len(path.parts)).parent
    start = root / "index.html"
    (first,) = {
        url.partition("#")[0] for url, text in site[start].named_links if text.startswith(need)
    }
    page = root / first
    seconds = [page.parent / urllib.parse.urlsplit(url).path for url in site[page].links]
    reached = {page, *(second.resolve() for second in seconds)} & set(site)
    assert any(NEEDS[need] in block for page in reached for block in site[page].code)


@pytest.mark.ci
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the site is built once")
@pytest.mark.parametrize("word", SEARCHES)
def test_a_search_finds_the_page_that_answers(site, word):
    root = min(site, key=lambda path: len(path.parts)).parent
    found = search(root / "searchindex.js", word)
    assert SEARCHES[word] in found[:3], found[:10]
