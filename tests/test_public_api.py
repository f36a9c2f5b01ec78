"""What a user imports: the names, what importing costs, and that everything is documented."""

import inspect
import json
import os
import pathlib
import subprocess
import sys
import types
import typing

import backends
import keras
import pytest
from autodiff import BACKEND
from public import PUBLIC

import keras_lgg as lgg

ROOT = pathlib.Path(__file__).parent.parent
OBJECTS = [
    pytest.param(getattr(module, name), id=name)
    for module, names in PUBLIC.items()
    for name in names
]


@pytest.mark.parametrize("public", OBJECTS)
def test_is_documented(public):
    doc = inspect.getdoc(public)
    assert ">>>" in doc, "an example that runs"
    arguments = [
        name
        for name, parameter in inspect.signature(public).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = [name for name in arguments if f"{name}:" not in doc]
    assert not missing


@pytest.mark.parametrize("public", [p for p in OBJECTS if inspect.isfunction(p.values[0])])
def test_options_are_keyword_only(public):
    options = list(inspect.signature(public).parameters.values())
    # The pattern is what it is asked for, keys are what queries look for, labels belong to samples.
    if public in (lgg.layer_paths, lgg.retrieval.evaluate, lgg.retrieval.neighbours):
        options.remove(options[1])
    if public is lgg.explore:
        options.remove(options[2])
    for parameter in options:
        if parameter.default is not parameter.empty:
            assert parameter.kind is parameter.KEYWORD_ONLY


def hinted(public):
    """The functions behind a public name: itself or, of a class, what this package gives it."""
    if not inspect.isclass(public):
        return {public.__name__: public}
    found = {}
    for base in reversed(public.__mro__):
        for name, member in vars(base).items() if base.__module__.startswith("keras_lgg") else ():
            if not name.startswith("_") or name in ("__init__", "__call__", "__getitem__"):
                member = member.fget if isinstance(member, property) else member
                member = getattr(member, "__func__", member)
                if inspect.isfunction(member):
                    found[name] = member
    return found


def admits(hint, value):
    """Whether a type that is written as a hint has a value."""
    kind = typing.get_origin(hint) or hint
    if kind is typing.Any:
        return True
    if kind in (typing.Union, types.UnionType):
        return any(admits(each, value) for each in typing.get_args(hint))
    if kind is typing.Literal:
        return value in typing.get_args(hint)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


@pytest.mark.parametrize("public", OBJECTS)
def test_hints_are_complete_and_resolve(public):
    if inspect.isclass(public):
        typing.get_type_hints(public)
    for name, function in hinted(public).items():
        parameters = inspect.signature(function).parameters
        hints = typing.get_type_hints(function)
        missing = {*parameters, "return"} - {*hints, "self", "cls"}
        assert not missing, name
        for parameter in parameters.values():
            if parameter.default is not parameter.empty:
                assert admits(hints[parameter.name], parameter.default), (name, parameter)


def test_what_opens_a_cache_is_as_public_as_what_writes_it():
    test_is_documented(lgg.teacher_cache.open)
    test_hints_are_complete_and_resolve(lgg.teacher_cache.open)


def test_no_hint_is_lost_on_type_checkers():
    assert (pathlib.Path(lgg.__file__).parent / "py.typed").exists()


def is_saved(public):
    """Whether models hold it: not the tools around trained models."""
    tools = ("callbacks", "comparison", "datasets", "explorer", "robustness", "tuning")
    modules = ("keras_lgg.manifolds.report", "keras_lgg.relative.stitching")
    modules += ("keras_lgg.relative.translation", "keras_lgg.training.tapping")
    modules += ("keras_lgg.relative.similarity_maps",)
    modules += tuple(f"keras_lgg.{tool}" for tool in tools)
    return inspect.isclass(public) and not public.__module__.startswith(modules)


@pytest.mark.parametrize("public", [p for p in OBJECTS if is_saved(p.values[0])])
def test_is_registered_under_the_package_name(public):
    if public is lgg.losses.GeometryLoss:
        pytest.skip("a base class, never saved itself")
    assert keras.saving.get_registered_name(public) == f"keras_lgg>{public.__name__}"


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_importing_is_light():
    """No other backend, no package of an extra, and no more modules than the package has."""
    code = (
        "import sys, json, keras; before = set(sys.modules); import keras_lgg;"
        "print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))"
    )
    keras_modules, added = json.loads(run(code, KERAS_BACKEND=BACKEND))
    others = {name for name in added if name.partition(".")[0] != "keras_lgg"}
    assert not {name for name in others if name.partition(".")[0] not in sys.stdlib_module_names}
    assert len(others) < 20
    if BACKEND != "tensorflow":
        assert "tensorflow" not in keras_modules


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_a_face_shows_what_is_public(module):
    modules = [name for name in dir(module) if inspect.ismodule(getattr(module, name))]
    assert set(dir(module)) == {*PUBLIC[module], *modules}
    subjects = {public.__name__.partition(".")[2] for public in PUBLIC if public is not lgg}
    assert set(modules) == (subjects if module is lgg else set())


def test_the_support_table_is_made_of_the_skips():
    assert backends.table() in (ROOT / "docs" / "backends.md").read_text()
