"""How Sphinx builds the site from what `course site` stages (course_utils.publishing.website)."""

from pathlib import Path

from docutils import nodes
from sphinx.transforms import SphinxTransform

from course_utils import __version__
from course_utils.publishing import addresses
from course_utils.publishing.mathml import to_mathml
from course_utils.publishing.website import to_rst

PUBLISHED = addresses.read(Path(__file__).resolve().parents[1])  # see `course badges --set`

project = "The QLoRA course"
author = "The QLoRA course authors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc"]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

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
    """Each code cell of a notebook can be linked to by its id."""

    default_priority = 400  # before Sphinx collects what can be linked to

    def apply(self):
        """Name the cells' nodes."""
        for node in self.document.findall(nodes.container):
            if name := node.get("cell_metadata", {}).get("anchor"):
                node["ids"].append(name)
                node["names"].append(f"{self.env.docname}#{name}")
                self.document.note_explicit_target(node)


def visit_math(translator, node):
    """A formula in a line."""
    translator.body.append(to_mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    """A formula on a line of its own."""
    translator.body.append(f'<div class="math">{to_mathml(node.astext(), display=True)}</div>\n')
    raise nodes.SkipNode


def process_docstring(app, what, name, obj, options, lines):
    """The course's docstrings are prose, which autodoc would take for reStructuredText."""
    lines[:] = to_rst(lines)


def launch_from_the_students_repository(app, pagename, template, context, doctree):
    """Exercises: the other repository holds their solutions. Without one they have no buttons."""
    if not pagename.startswith("exercises/"):
        return
    if PUBLISHED.students:
        context["github_user"], context["github_repo"] = PUBLISHED.students.split("/")[-2:]
    else:  # what the theme knows a notebook by
        app.env.metadata[pagename].pop("kernelspec", None)
        context["page_source_suffix"] = ""


def setup(app):
    """Register the above with Sphinx."""
    app.add_transform(CellAnchors)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-process-docstring", process_docstring)
    app.connect("html-page-context", launch_from_the_students_repository)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
