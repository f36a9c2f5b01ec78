"""Figures that lead to their full size, and numbers that stay in one line with their spread."""

import re

from docutils import nodes


def mark(app, page):
    """Sphinx links an image that has a scale to its file."""
    for image in page.findall(nodes.image):
        if not isinstance(image.parent, nodes.reference):
            image["scale"] = 100


def join(app, page):
    """Put no-break spaces around ± and before units."""
    verbatim = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)
    for text in list(page.findall(nodes.Text)):
        if not isinstance(text.parent, verbatim):
            joined = re.sub(r"(?<=\d) (?=± ?\d|%|dB\b)|(?<=±) (?=\d)", "\u00a0", text)
            if joined != text:
                text.parent.replace(text, nodes.Text(joined))


def setup(app):
    app.connect("doctree-read", mark)
    app.connect("doctree-read", join)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
