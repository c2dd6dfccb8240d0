"""Sphinx's settings for the site, which `course site` builds (course_utils.publishing.website)."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.transforms import SphinxTransform

from course_utils import __version__
from course_utils.publishing import addresses
from course_utils.publishing.mathml import to_mathml

PUBLISHED = addresses.read(Path(__file__).resolve().parents[1])  # see `course badges --set`

project = "The QLoRA course"
author = "The QLoRA course authors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

# Docstrings: Google style, with code in single backticks.
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # a list, instead of entries
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
add_module_names = False
maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_math_renderer = "mathml"
html_theme_options = {
    "use_download_button": False,
    "show_toc_level": 2,
    "extra_footer": "Text and notebooks: CC BY 4.0. Code: MIT. Data: CC0 1.0.",
}
if PUBLISHED.repository:
    html_theme_options |= {
        "repository_url": PUBLISHED.repository,
        "repository_branch": addresses.TAG,
        "use_repository_button": True,
        "launch_buttons": {
            "colab_url": addresses.COLAB,
            "binderhub_url": addresses.BINDER,
            "notebook_interface": "jupyterlab",
        },
    }


class CellAnchors(SphinxTransform):
    """Make each code cell of a notebook a link target with the cell's id."""

    default_priority = 400  # before Sphinx collects the link targets

    def apply(self):
        """Name the nodes of the cells."""
        for node in self.document.findall(nodes.container):
            if name := node.get("cell_metadata", {}).get("anchor"):
                node["ids"].append(name)
                node["names"].append(f"{self.env.docname}#{name}")
                self.document.note_explicit_target(node)


def visit_math(translator, node):
    """Write a formula within a line as MathML."""
    translator.body.append(to_mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    """Write a formula on a line of its own as MathML."""
    translator.body.append(f'<div class="math">{to_mathml(node.astext(), display=True)}</div>\n')
    raise nodes.SkipNode


def prepare_docstring(app, what, name, obj, options, lines):
    """Mark the parts of a docstring that napoleon would misread.

    A block that is indented below a blank line, such as a drawing, becomes a block of plain text;
    the sections of Google style have no blank line below their heading. In the docstring of a
    property, an empty comment keeps napoleon from reading "Bytes: the sum" as a type.
    """
    text = re.sub(
        r"^(\S.*)(?<!::)\n\n(?= {4})",
        r"\1\n\n.. code-block:: text\n\n",
        "\n".join(lines),
        flags=re.M,
    )
    lines[:] = [*(["..", ""] if what == "property" else []), *text.split("\n")]


def launch_from_the_students_repository(app, pagename, template, context, doctree):
    """Let the buttons of exercises open the students' repository, which has no solutions.

    Without such a repository, the pages of exercises have no buttons.
    """
    if not pagename.startswith("exercises/"):
        return
    if PUBLISHED.students:
        context["github_user"], context["github_repo"] = PUBLISHED.students.split("/")[-2:]
    else:
        # The theme recognizes a notebook by these two.
        app.env.metadata[pagename].pop("kernelspec", None)
        context["page_source_suffix"] = ""


def setup(app):
    """Register the above with Sphinx."""
    app.add_transform(CellAnchors)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)  # before napoleon
    app.connect("html-page-context", launch_from_the_students_repository)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
