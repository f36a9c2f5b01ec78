"""Imported first: stand-ins for the libraries while an example only shows its options.

The libraries take ten seconds to load, and ``--help`` needs none of them. Attributes, calls and
subclasses of stand-ins are stand-ins, too.
"""

import importlib.abc
import importlib.machinery
import sys
from unittest import mock

LIBRARIES = ("gensim", "keras", "keras_lgg", "keras_tuner", "matplotlib", "numpy", "pandas")
LIBRARIES += ("scipy", "sklearn", "tensorflow")


class StandIn(mock.MagicMock):
    """A module, or anything in one."""

    __path__: tuple[str, ...] = ()


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for the modules of the libraries."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LIBRARIES:
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        return StandIn(name=spec.name)

    def exec_module(self, module):
        pass


if {"-h", "--help"} & set(sys.argv[1:]):
    sys.meta_path.insert(0, Finder())
