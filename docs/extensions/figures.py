"""A figure that is shown smaller than it is leads to the whole of it."""

from docutils import nodes


def mark(app, page):
    for image in page.findall(nodes.image):
        if not isinstance(image.parent, nodes.reference):
            image["scale"] = 100  # Sphinx links what has a scale


def setup(app):
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
