"""The documentation site: ``python -m sphinx -W --keep-going -j 2 docs docs/_build/html``.

Pages in Markdown whose code is in ``{code-cell}`` blocks are executed at each build that finds the
package, or their code, changed.
"""

import pathlib
import sys

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS / "extensions"))

import execution
import notebooks

ipython = execution.prepare_kernels()

import keras_lgg

project = "keras_lgg"
author = "the keras_lgg developers"
version = release = keras_lgg.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxcontrib.katex",
    "api_reference",
    "execution",
    "gallery",
    "figures",
]
exclude_patterns = ["_build", "notebooks", "_templates", "extensions", "inventories"]
templates_path = ["_templates"]

html_theme = "furo"
html_title = f"keras_lgg {version}"
html_theme_options = {
    "source_repository": notebooks.repository(),
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = html_show_sphinx = False

# Formulas become MathML, which browsers draw with fonts of their own: nothing from the network.
katex_css_path = "katex-math.css"  # of the extension itself; KaTeX's own asks for fonts
katex_options = 'output: "mathml", throwOnError: true'

# Markdown and its executed code.
myst_heading_anchors = 4  # links such as micro_batches.md#random-layers work here as on GitHub
myst_enable_extensions = ["colon_fence", "attrs_inline", "attrs_block", "dollarmath"]
nb_execution_mode = "cache"
nb_execution_cache_path = execution.cache()
nb_execution_in_temp = True  # the pages write files
nb_execution_timeout = 240  # seconds a cell
nb_execution_show_tb = True
nb_output_stderr = "remove"  # where TensorFlow speaks of devices
nb_merge_streams = True
nb_render_markdown_format = "myst"  # which has tables
nb_ipywidgets_js = {}  # no widgets, nothing from the network

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.output) > div.highlight pre"

# The reference. Docstrings put code in single backticks, as in Markdown: names of ours become
# links, all else stays code.
default_role = "py:obj"
autosummary_generate = True
autosummary_context = {
    "inherited": {"keras_lgg.GeometryModel": ["recording_taps"]},
    "attached": {"keras_lgg.teacher_cache": ["keras_lgg::teacher_cache.open"]},
}
autodoc_inherit_docstrings = False  # else Keras's own methods would be documented here
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # `api_reference` takes those of the source
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # whose types are those of a program that runs
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style"), "Reference"]
toc_object_entries_show_parents = "hide"

# A build has no network: what others document is listed here, by hand.
intersphinx_mapping = {
    name: (address, str(DOCS / "inventories" / f"{name}.inv"))
    for name, address in {
        "keras": "https://keras.io",
        "numpy": "https://numpy.org/doc/stable",
        "pandas": "https://pandas.pydata.org/docs",
        "matplotlib": "https://matplotlib.org/stable",
        "python": "https://docs.python.org/3",
        "sklearn": "https://scikit-learn.org/stable",
        "tensorflow": "https://www.tensorflow.org",
    }.items()
}
