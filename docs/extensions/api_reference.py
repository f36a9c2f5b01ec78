"""The reference: signatures as they are written, links to short names, links to the source."""

import ast
import importlib
import inspect
import pathlib
import re
import textwrap

from docutils import nodes
from sphinx.ext.intersphinx import resolve_reference_detect_inventory

ROOT = pathlib.Path(__file__).parents[2]
# What hints call by a short name, and the inventories by a full one.
MODULES = {"np": "numpy", "tf": "tensorflow", "kt": "keras_tuner"}
STANDARD = ("Callable", "Iterable", "Iterator", "Mapping", "Sequence")
OUTSIDE = {name: f"collections.abc.{name}" for name in STANDARD} | {"Series": "pandas.Series"}
# Hints of our own: each has a heading on this page.
TYPES = "api/types"
EXPLAINED = re.findall(
    r"^## (\w+)$", (ROOT / "docs" / f"{TYPES}.md").read_text(), flags=re.MULTILINE
)


class Readable(ast.NodeTransformer):
    """Hints with full names of modules, and no quotes around what is defined further below."""

    def visit_Name(self, node):
        return ast.Name(MODULES.get(node.id, node.id))

    def visit_Subscript(self, node):
        if isinstance(node.value, ast.Name) and node.value.id == "Literal":
            return node
        return self.generic_visit(node)

    def visit_Constant(self, node):
        if isinstance(node.value, str):
            return self.visit(ast.parse(node.value, mode="eval").body)
        return node


def readable(hint):
    return Readable().visit(hint) if hint is not None else None


def definition(thing):
    """The syntax tree of a function or a class."""
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))).body[0]


def written_signature(function, *, is_bound):
    """The arguments, and what comes back, as the source has them.

    The values of the hints are of little use to a reader: `Tensor` and `DataFrame` are `Any` when
    the package runs, and `keras.Model` is ``keras.src.models.model.Model``.
    """
    written = definition(function)
    arguments = written.args
    if is_bound:
        arguments.args = arguments.args[1:]
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for argument in [*given, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = readable(argument.annotation)
    arguments.defaults = [valued(d, function) for d in arguments.defaults]
    arguments.kw_defaults = [d and valued(d, function) for d in arguments.kw_defaults]
    returns = readable(written.returns)
    return f"({ast.unparse(arguments)})", returns and ast.unparse(returns)


def valued(default, function):
    """A default, and for the name of a constant its value."""
    if not isinstance(default, ast.Name):
        return default
    value = inspect.unwrap(function).__globals__[default.id]
    return ast.Constant(value) if isinstance(value, str | int | float | tuple) else default


def signature_of_fields(record):
    """The arguments of a named tuple or a data class: its fields."""
    fields = [line for line in definition(record).body if isinstance(line, ast.AnnAssign)]
    for field in fields:
        field.annotation = readable(field.annotation)
    return f"({', '.join(ast.unparse(field) for field in fields)})"


def process_signature(app, what, name, thing, options, given, returns):
    if what == "class":
        if issubclass(thing, tuple) or hasattr(thing, "__dataclass_fields__"):
            return signature_of_fields(thing), None
        if not inspect.isfunction(thing.__init__):
            return None  # it takes no arguments
        return written_signature(thing.__init__, is_bound=True)[0], None
    if what in ("function", "method") and inspect.isroutine(inspect.unwrap(thing)):
        owner = name.rpartition(".")[0]
        is_static = what == "method" and isinstance(
            inspect.getattr_static(imported(owner), thing.__name__, None), staticmethod
        )
        return written_signature(thing, is_bound=what == "method" and not is_static)
    return None


def imported(name):
    """What a full name, such as ``"keras_lgg.losses.GraphDistillation"``, stands for."""
    parts = name.split(".")
    thing = importlib.import_module(parts[0])
    for part in parts[1:]:
        thing = getattr(thing, part)
    return thing


def link_short_name(app, env, node, contents):
    """`GraphDistillation` or `lgg.losses.GraphDistillation`, wherever the docstring stands."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target in EXPLAINED:
        uri = app.builder.get_relative_uri(node["refdoc"], TYPES)
        return nodes.reference("", "", contents, internal=True, refuri=f"{uri}#{target.lower()}")
    domain = env.get_domain("py")
    suffix = "." + target.removeprefix("lgg.").removeprefix("keras_lgg.")
    names = [name for name in domain.objects if name.endswith(suffix)]
    if len(names) == 1:
        entry = domain.objects[names[0]]
        uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
        return nodes.reference(
            "", "", contents, internal=True, refuri=f"{uri}#{entry.node_id}", reftitle=names[0]
        )
    first, _, rest = target.partition(".")
    full = OUTSIDE.get(target) or (f"{MODULES[first]}.{rest}" if first in MODULES else None)
    if full is None:
        return None
    node["reftarget"] = full
    return resolve_reference_detect_inventory(env, node, contents)


def link_source(app, page, template, context, doctree):
    """On the page of a symbol, the links of the theme lead to the file that defines it."""
    if not page.startswith("api/generated/"):
        return
    thing = inspect.unwrap(imported(page.removeprefix("api/generated/")))
    path = pathlib.Path(inspect.getsourcefile(thing)).relative_to(ROOT)
    repository = app.config.html_theme_options["source_repository"]
    branch = app.config.html_theme_options["source_branch"]
    context["theme_source_view_link"] = f"{repository}/blob/{branch}/{path}"
    context["theme_source_edit_link"] = f"{repository}/edit/{branch}/{path}"


def setup(app):
    app.connect("autodoc-process-signature", process_signature)
    app.connect("missing-reference", link_short_name)
    app.connect("html-page-context", link_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
