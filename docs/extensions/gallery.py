"""Pages of examples as cards, and which pages use a name of the package.

A page of `gallery/` names its script in its front matter. The pages of `tutorials/` are examples
themselves, and their code is in their cells, as is that of guides.
"""

import ast
import functools
import pathlib
import re
from typing import NamedTuple

import yaml
from api_reference import imported
from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

DOCS = pathlib.Path(__file__).parents[1]
SCRIPTS = DOCS.parent / "examples"
CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?::[\w-]+:[^\n]*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL
)
CARDS = 8  # of examples at most, on the page of a name


class Page(NamedTuple):
    """An example: where it is, what its card shows, its code, the extras that it needs."""

    name: str
    title: str
    summary: str
    thumbnail: str | None
    script: str | None
    extras: str
    text: str

    @property
    def code(self):
        if self.script:
            return (SCRIPTS / self.script).read_text()
        cells = "\n".join(CELL.findall(self.text))
        return re.sub(r"^%.*$", "", cells, flags=re.MULTILINE)


@functools.cache
def page(name):
    """The example whose page is so called, such as ``"gallery/robustness"``."""
    front, text = (DOCS / f"{name}.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    given = yaml.safe_load(front)
    picture = given.get("thumbnail")
    return Page(
        name,
        re.search(r"^# (.+)$", text, re.MULTILINE)[1],
        given.get("summary", ""),
        picture and "/" + str((DOCS / name).parent.joinpath(picture).resolve().relative_to(DOCS)),
        given.get("script"),
        given.get("extras", "examples"),
        text,
    )


@functools.cache
def pages():
    """All examples, tutorials first."""
    found = [path for folder in ("tutorials", "gallery") for path in (DOCS / folder).glob("*.md")]
    names = [str(path.relative_to(DOCS).with_suffix("")) for path in found if path.stem != "index"]
    return [page(name) for name in sorted(names, key=lambda name: (name[0] != "t", name))]


@functools.cache
def guides():
    """The other pages whose code is executed."""
    executed = "---\nfile_format: mystnb\n"
    paths = [path for path in DOCS.glob("*.md") if path.read_text().startswith(executed)]
    return [page(path.stem) for path in sorted(paths) if path.stem != "index"]


@functools.cache
def uses(example):
    """What an example uses of the package: things that it imports, and attributes of them."""
    tree = ast.parse(example.code)
    known = {}  # names of the script, and what they stand for in full
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {a.asname or a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    chains = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = []
    for chain in sorted(chains | set(known)):
        first, dot, rest = chain.partition(".")
        full = known.get(first, "") + dot + rest
        if full.startswith("keras_lgg.") and re.fullmatch(r"[\w.]+", full):
            try:
                found.append(imported(full))
            except (AttributeError, ImportError):
                continue  # an attribute of what it made
    return found


@functools.cache
def reference():
    """The classes and functions that have a page, by their full names."""
    return {path.stem: imported(path.stem) for path in (DOCS / "api" / "generated").glob("*.rst")}


def documented(things):
    """Full names, as the reference lists them, of some of its classes and functions."""
    return [name for name, value in reference().items() if any(value is t for t in things)]


def link_to(env, name, *children):
    """A link from the page that is read to another one."""
    address = env.app.builder.get_relative_uri(env.docname, name)
    return nodes.reference("", "", *children, refuri=address, internal=True)


def card(env, example):
    link = link_to(env, example.name)
    if example.thumbnail:
        link += nodes.image(uri=example.thumbnail, alt="", loading="lazy")
    link += nodes.strong("", example.title)
    entry = nodes.list_item("", nodes.paragraph("", "", link))
    if example.summary:
        entry += nodes.paragraph("", example.summary)
    return entry


def cards(env, examples):
    listed = nodes.bullet_list("", *(card(env, example) for example in examples))
    return nodes.container("", listed, classes=["cards", "pictured"])


class Gallery(SphinxDirective):
    """The cards of the pages that are named in the lines of its content."""

    has_content = True

    def run(self):
        return [cards(self.env, [page(name.strip()) for name in self.content if name.strip()])]


class Example(SphinxDirective):
    """What belongs to a page of the gallery: its script, a notebook, the names that it uses."""

    def run(self):
        example = page(self.env.docname)
        repository = self.config.html_theme_options["source_repository"]
        owner = repository.removeprefix("https://github.com/")
        branch = self.config.html_theme_options["source_branch"]
        file = f"notebooks/{example.name}.ipynb"
        notebook = addnodes.download_reference("", "", nodes.Text("Notebook"), reftarget=f"/{file}")
        colab = f"https://colab.research.google.com/github/{owner}/blob/{branch}/docs/{file}"
        links = nodes.paragraph("", "", notebook, nodes.Text(" · "))
        links += nodes.reference("", "Open in Colab", refuri=colab)
        if example.script is None:
            return [links]
        script = f"{repository}/blob/{branch}/examples/{example.script}"
        links += [
            nodes.Text(" · "),
            nodes.reference("", f"examples/{example.script}", refuri=script),
        ]
        self.env.note_dependency(str(SCRIPTS / example.script))
        return [links, *self.names(example), *self.listing(example)]

    def names(self, example):
        used = documented(uses(example))
        if not used:
            return []
        text = nodes.paragraph("", "Uses ")
        for i, name in enumerate(sorted(used, key=lambda name: name.rpartition(".")[2].lower())):
            text += [nodes.Text(", ")] if i else []
            code = nodes.literal("", name.rpartition(".")[2])
            text += link_to(self.env, f"api/generated/{name}", code)
        return [text]

    def listing(self, example):
        code = nodes.literal_block(example.code, example.code, language="python")
        opened = f"<details><summary>The code, {example.code.count(chr(10))} lines</summary>"
        return [
            nodes.raw("", opened, format="html"),
            code,
            nodes.raw("", "</details>", format="html"),
        ]


class ExamplesUsing(SphinxDirective):
    """Cards of the examples that use a name, under a heading; nothing where none does."""

    required_arguments = 1

    def run(self):
        thing = imported(self.arguments[0])
        found = [e for e in pages() + guides() if any(used is thing for used in uses(e))]
        for example in found:
            self.env.note_dependency(str(DOCS / f"{example.name}.md"))
        if not found:
            return []
        return [nodes.rubric("", "Examples that use it"), cards(self.env, found[:CARDS])]


def setup(app):
    app.add_directive("gallery", Gallery)
    app.add_directive("example", Example)
    app.add_directive("examples-using", ExamplesUsing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
