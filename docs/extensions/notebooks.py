"""Each page of an example as a notebook, in `docs/notebooks`.

    python docs/extensions/notebooks.py    # writes them

The notebooks are kept in the repository, since Colab opens what lies there.
"""

import pathlib
import re

import nbformat
from gallery import CELL, DOCS, pages
from nbformat import v4

NOTEBOOKS = DOCS / "notebooks"


def repository():
    """The address of the repository, which `setup.py` has."""
    text = (DOCS.parent / "setup.py").read_text()
    return re.search(r'^REPOSITORY = "(.+?)/?"', text, re.MULTILINE)[1]


def readable_elsewhere(text, folder):
    """Markdown with no roles or directives, whose links lead to the repository."""
    text = re.sub(r"\{[\w:]+\}`([^`<]+?) ?(?:<[^`]+>)?`", r"`\1`", text)
    text = re.sub(r"^(`{3,}|:{3,})\{(?!code-cell).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)

    def absolute(match):
        path, _, place = match[2].partition("#")
        target = (DOCS / folder / path).resolve().relative_to(DOCS.parent) if path else ""
        kind = "raw" if match[1].startswith("!") else "blob"
        return f"{match[1]}({repository()}/{kind}/main/{target}{'#' * bool(place)}{place})"

    text = re.sub(r"(!?\[[^\]]*\])\((?!https?:|#)([^)]+)\)", absolute, text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def notebook(example):
    """The notebook of an example: of a tutorial its cells, of a script its commands."""
    cells = script_cells(example) if example.script else tutorial_cells(example)
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def tutorial_cells(example):
    install = f'%pip install -q "keras_lgg[docs] @ git+{repository()}"'
    parts = CELL.split(example.text)
    folder = pathlib.Path(example.name).parent
    cells = []
    for i, part in enumerate(parts):
        if i % 2:
            cells.append(v4.new_code_cell(part.strip()))
        elif text := readable_elsewhere(part, folder):
            cells.append(v4.new_markdown_cell(text))
    return [cells[0], v4.new_code_cell(install), *cells[1:]]


def script_cells(example):
    said = readable_elsewhere(example.text, pathlib.Path(example.name).parent)
    said = said.partition("\n## Run it")[0]
    stem = pathlib.Path(example.script).stem
    get = (
        f"!git clone -q --depth 1 {repository()}\n"
        "%cd keras_lgg\n"
        f'%pip install -q -e ".[{example.extras}]"'
    )
    show = (
        "import pathlib\n\nfrom IPython.display import Image, display\n\n"
        f'for picture in sorted(pathlib.Path("{stem}").glob("*.png")):\n    display(Image(picture))'
    )
    return [
        v4.new_markdown_cell(said),
        v4.new_code_cell(get),
        v4.new_markdown_cell("In small; `--help` lists the options."),
        v4.new_code_cell(f"!python examples/{stem}.py --quick"),
        v4.new_code_cell(show),
        v4.new_markdown_cell("The script:"),
        v4.new_code_cell(f"%pycat examples/{stem}.py"),
    ]


def main():
    for old in NOTEBOOKS.rglob("*.ipynb"):
        old.unlink()
    for example in pages():
        path = NOTEBOOKS / f"{example.name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook(example), path)


if __name__ == "__main__":
    main()
