"""Who imports whom: down the ladder alone, in no circle, and nobody past a face from outside."""

import ast
import graphlib
import pathlib
import re

import pytest

pytestmark = pytest.mark.once
ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "keras_lgg"
# From the ground up; the tools around a model stand on one rung, where some use others.
LADDER = [
    {"checks", "types"},
    {"files"},
    {"graphs"},
    {"losses"},
    {"training"},
    {"relative"},
    {"layers"},
    {
        "callbacks",
        "comparison",
        "constraints",
        "datasets",
        "distribute",
        "explorer",
        "manifolds",
        "plots",
        "retrieval",
        "robustness",
        "tuning",
    },
]
RUNG = {subject: rung for rung, subjects in enumerate(LADDER) for subject in subjects}
BESIDE = {
    ("callbacks", "plots"),
    ("callbacks", "retrieval"),
    ("comparison", "plots"),
    ("comparison", "retrieval"),
    ("comparison", "robustness"),
    ("explorer", "callbacks"),
    ("explorer", "plots"),
    ("explorer", "retrieval"),
    ("manifolds", "plots"),
    ("tuning", "comparison"),
}
FILES = {path.relative_to(ROOT): path for path in sorted(PACKAGE.rglob("*.py"))}
LONGEST = 500  # lines; a file that is longer is two subjects, or says too much


def name_of(file):
    """The dotted name of a module."""
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): path for file, path in FILES.items()}


def imported(source):
    """The modules of the package that a source imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports alone"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return {name for name in found if name.partition(".")[0] == "keras_lgg"}


def subject_of(module):
    return module.split(".")[1] if "." in module else None


IMPORTS = {module: imported(path.read_text()) for module, path in MODULES.items()}


def wrong_arrows(imports):
    """The imports that do not run down the ladder."""
    for module, targets in imports.items():
        ours = subject_of(module)
        if ours is None:  # the package's own face
            continue
        for target in targets:
            theirs = subject_of(target)
            allowed = theirs is not None and (
                (ours == theirs and target != f"keras_lgg.{ours}")
                or RUNG[theirs] < RUNG[ours]
                or (ours, theirs) in BESIDE
            )
            if not allowed:
                yield f"{module} imports {target}"


def test_imports_run_down_the_ladder():
    assert not list(wrong_arrows(IMPORTS))


def test_an_arrow_up_is_found():
    assert list(wrong_arrows({"keras_lgg.graphs.pairs": {"keras_lgg.losses.base"}}))
    assert list(wrong_arrows({"keras_lgg.plots.style": {"keras_lgg.manifolds.report"}}))
    assert list(wrong_arrows({"keras_lgg.losses.base": {"keras_lgg"}}))
    assert list(wrong_arrows({"keras_lgg.plots.style": {"keras_lgg.plots"}}))  # its own face
    assert not list(wrong_arrows({"keras_lgg.manifolds.plots": {"keras_lgg.plots.style"}}))


def test_there_is_no_circle():
    # A face imports its own files, and may be asked by others for them.
    files = {
        module: {target for target in targets if target != module}
        for module, targets in IMPORTS.items()
        if not MODULES[module].name.startswith("__init__")
    }
    graphlib.TopologicalSorter(files).prepare()


def test_every_subject_has_its_place():
    tops = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert tops == {"checks", "constraints", "datasets", "distribute", "files", "layers", "types"}
    assert tops | folders == set(RUNG)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_are_short(file):
    assert len(FILES[file].read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("subject", sorted(set(RUNG) - {"checks", "files", "types"}))
def test_a_face_says_what_it_shows(subject):
    path = PACKAGE / subject / "__init__.py"
    tree = ast.parse((path if path.exists() else PACKAGE / f"{subject}.py").read_text())
    assert ast.get_docstring(tree)
    names = {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets}
    assert "__all__" in names
    if path.exists():  # nothing but imports and what shows them
        kinds = (ast.Expr, ast.ImportFrom, ast.Assign, ast.FunctionDef)
        assert all(isinstance(node, kinds) for node in tree.body)


def test_tests_stand_where_the_package_does():
    for path in (ROOT / "tests").iterdir():
        if path.is_dir() and list(path.glob("test_*.py")):
            assert path.name in RUNG, path


PAGES = [ROOT / "README.md", *(p for p in (ROOT / "docs").rglob("*") if "_build" not in p.parts)]
PAGES += (ROOT / "examples").glob("*.py")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.suffix in {".md", ".rst", ".py"}],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_no_page_reaches_past_a_face(page):
    private = {
        module for module in MODULES if module.count(".") == 2 or subject_of(module) == "training"
    }
    named = set(re.findall(r"keras_lgg(?:\.[a-z_]+)+", page.read_text()))
    inside = {name for name in named for module in private if f"{name}.".startswith(f"{module}.")}
    public = {"keras_lgg.manifolds.strata"}  # a function, of the name of its file
    assert inside - public == set()
