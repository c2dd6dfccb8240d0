"""Configure Sphinx for the website that workshop.publishing.website builds (`course site`)."""

import re
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

from course_utils import __version__
from workshop.publishing import addresses, live_tools
from workshop.publishing.html import picture_of
from workshop.publishing.live import fit
from workshop.publishing.mathml import to_mathml
from workshop.publishing.progress import progress_list

# `course badges --set` writes these addresses to pyproject.toml.
COURSE = Path(__file__).absolute().parents[1]
PUBLISHED = addresses.read(COURSE)

project = "The QLoRA course"
author = "The QLoRA course authors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"
nb_merge_streams = True
# Markdown in outputs may contain formulas, too.
nb_render_markdown_format = "myst"
myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 4

# Docstrings are in Google style, with code in single backticks.
default_role = "literal"
napoleon_numpy_docstring = False
# Attributes are shown as a list instead of separate entries.
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
add_module_names = False
maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_title = project
# The exported pages of lectures have the same badge as the website.
html_static_path = ["_static", str(files("workshop.publishing") / "data" / "badge.css")]
html_css_files = ["badge.css", "course.css"]
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

    # With this priority, the transform runs before Sphinx collects the link targets.
    default_priority = 400

    def apply(self):
        """Register the id of each code cell as a link target."""
        for node in self.document.findall(nodes.container):
            if name := node.get("cell_metadata", {}).get("anchor"):
                node["ids"].append(name)
                node["names"].append(f"{self.env.docname}#{name}")
                self.document.note_explicit_target(node)


class LiveTool(SphinxDirective):
    """Show a tool that computes in the reader's browser: its form and its first answer."""

    required_arguments = 1

    def run(self):
        """Return the HTML of the tool."""
        return [nodes.raw("", live_tools.tool(self.arguments[0]), format="html")]


class Picture(SphinxDirective):
    """Show the picture that a cell of an executed lecture drew, given as LECTURE#CELL."""

    required_arguments = 1

    def run(self):
        """Return the HTML of the picture."""
        lecture, _, cell = self.arguments[0].partition("#")
        path = Path(self.env.srcdir) / "lectures" / f"{lecture}.ipynb"
        self.env.note_dependency(str(path))
        return [nodes.raw("", picture_of(path, cell), format="html")]


class Progress(SphinxDirective):
    """Show the list of lectures and exercises that a reader has done."""

    def run(self):
        """Return the HTML of the list."""
        return [nodes.raw("", progress_list(COURSE), format="html")]


class MemoryOfMethods(SphinxDirective):
    """Show the memory of each method for one model, as computed while the site is built."""

    required_arguments = 1

    def run(self):
        """Return the HTML of the bars."""
        return [nodes.raw("", fit.methods(self.arguments[0]), format="html")]


def add_scripts_of_tools(app, pagename, template, context, doctree):
    """Load the scripts and the style sheet only on pages that need them."""
    body = context.get("body", "")
    if 'class="live-' in body:
        app.add_css_file("live.css")
    if 'class="live-tool"' in body:
        app.add_js_file("live.mjs", type="module")
    if "data-done=" in body:
        app.add_js_file("reader.mjs", type="module")


def visit_math(translator, node):
    """Write an inline formula as MathML."""
    translator.body.append(to_mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    """Write a formula on a separate line as MathML."""
    translator.body.append(f'<div class="math">{to_mathml(node.astext(), display=True)}</div>\n')
    raise nodes.SkipNode


# Sphinx calls this function with six arguments.
def prepare_docstring(app, what, name, obj, options, lines):  # noqa: PLR0913
    """Mark the parts of a docstring that napoleon would misread.

    An indented block below a blank line, such as a drawing, becomes a block of plain text. Sections
    in Google style, such as `Args:`, are not changed, because their indented lines follow the
    heading without a blank line. The docstring of a property gets an empty comment as its first
    line. Otherwise napoleon would read the beginning of "Bytes: the sum" as a type.
    """
    text = re.sub(
        r"^(\S.*)(?<!::)\n\n(?= {4})",
        r"\1\n\n.. code-block:: text\n\n",
        "\n".join(lines),
        flags=re.M,
    )
    lines[:] = [*(["..", ""] if what == "property" else []), *text.split("\n")]


def launch_from_the_students_repository(app, pagename, template, context, doctree):
    """Let the launch buttons of exercises open the students' repository, which has no solutions.

    If pyproject.toml does not name the students' repository, the pages of exercises have no
    buttons.
    """
    if not pagename.startswith("exercises/"):
        return
    if PUBLISHED.students:
        context["github_user"], context["github_repo"] = PUBLISHED.students.split("/")[-2:]
    else:
        # The theme shows buttons only on pages with a kernelspec and a source suffix.
        app.env.metadata[pagename].pop("kernelspec", None)
        context["page_source_suffix"] = ""


def setup(app):
    """Register the transform, the renderer and the event handlers of this file with Sphinx."""
    app.add_transform(CellAnchors)
    app.add_directive("live", LiveTool)
    app.add_directive("memory-of-methods", MemoryOfMethods)
    app.add_directive("picture", Picture)
    app.add_directive("progress", Progress)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    # With this priority, the handler runs before napoleon's handler.
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)
    app.connect("html-page-context", add_scripts_of_tools)
    app.connect("html-page-context", launch_from_the_students_repository)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
