"""The documentation site: ``python -m sphinx -W --keep-going -j 2 docs docs/_build/html``.

Pages in Markdown whose code is in ``{code-cell}`` blocks are executed at each build.
"""

import inspect
import os
import pathlib
import tempfile

import keras
from docutils import nodes
from sphinx.util.inspect import signature, stringify_signature

import keras_lgg

# What the pages' kernels inherit.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ["DOCS"] = os.path.dirname(os.path.abspath(__file__))
os.environ["MATPLOTLIBRC"] = os.environ["DOCS"]

# Run in each kernel: TensorFlow prints warnings that many small models are traced.
ipython = tempfile.TemporaryDirectory()
startup = pathlib.Path(ipython.name, "profile_default", "startup", "quiet.py")
startup.parent.mkdir(parents=True)
startup.write_text(
    "import logging\n"
    "logging.getLogger('tensorflow').addFilter(lambda record: record.levelno >= logging.ERROR)\n"
)
os.environ["IPYTHONDIR"] = ipython.name

project = "keras_lgg"
author = "the keras_lgg developers"
version = release = keras_lgg.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "keras_lgg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = html_show_sphinx = False

# Markdown and its executed code.
myst_heading_anchors = 4  # links such as results.md#what-holds work here as on GitHub
myst_enable_extensions = ["colon_fence", "attrs_inline", "attrs_block"]
nb_execution_mode = "force"
nb_execution_in_temp = True  # the pages write files
nb_execution_timeout = 240  # seconds a cell
nb_execution_show_tb = True
nb_output_stderr = "remove"  # where TensorFlow speaks of devices
nb_render_markdown_format = "myst"  # which has tables
nb_ipywidgets_js = {}  # no widgets, nothing from the network

# The reference. Docstrings put code in single backticks, as in Markdown: names of ours become
# links, all else stays code.
default_role = "py:obj"
autodoc_inherit_docstrings = False  # else Keras's own methods would be documented here
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style"), "Reference"]
toc_object_entries_show_parents = "hide"


def signature_of_init(app, what, name, obj, options, given, annotation):
    """The arguments of a class; autodoc would show those of ``keras.layers.Layer.__new__``."""
    if what != "class" or not issubclass(obj, keras.Operation | keras.Model):
        return None
    arguments = list(signature(obj.__init__).parameters.values())[1:]
    return stringify_signature(inspect.Signature(arguments)), annotation


def link_short_name(app, env, node, contents):
    """`GraphDistillation` or `lgg.losses.GraphDistillation`, wherever the docstring stands."""
    domain = env.get_domain("py")
    if node.get("refdomain") != "py":
        return None
    suffix = "." + node["reftarget"].removeprefix("lgg.").removeprefix("keras_lgg.")
    names = [name for name in domain.objects if name.endswith(suffix)]
    if len(names) != 1:
        return None
    entry = domain.objects[names[0]]
    uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
    return nodes.reference(
        "", "", contents, internal=True, refuri=f"{uri}#{entry.node_id}", reftitle=names[0]
    )


def setup(app):
    app.connect("autodoc-process-signature", signature_of_init)
    app.connect("missing-reference", link_short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
