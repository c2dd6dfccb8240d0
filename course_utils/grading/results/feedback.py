"""Notebooks as pages: no student code runs in them, and feedback keeps hidden tests hidden.

nbgrader makes a page of a notebook in two places, formgrader (for the instructor) and feedback (for
the student), both by nbconvert's HTMLExporter. nbgrader_config.py plugs in:

    HTMLExporter.preprocessors      Harmless           the notebook anew, of what can't act
    HTMLExporter.filters            clean, markdown    HTML of harmless tags alone
    HTMLExporter.template_file      harmless.html.j2   a Content-Security-Policy: the second fence
    GenerateFeedback.preprocessors  SafeFeedback       neither hidden tests nor what they expect

Without the first two, a student's script in an output or a text runs as the instructor who looks at
it, and may change grades; a picture's address alone can make formgrader load other settings.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import html
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat.v4 as v4
import nh3
from bs4 import BeautifulSoup
from jinja2 import pass_context
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import Preprocessor
from nbgrader.utils import parse_utc
from pygments.token import STANDARD_TYPES
from traitlets import Bool

from course_utils import checks
from course_utils.checks import HIDDEN_PREFIX, PREFIX
from course_utils.grading.assignments import HIDDEN, HIDDEN_END

TEXT = 100_000  # characters of a source or an output that are shown
MARKDOWN = 10_000  # characters of a text that is read as markdown; a longer one stands as it is
HTML = 100_000  # characters of a text that is read as HTML, pictures apart
MAX_TAGS = 10_000  # tags of a text that is read as HTML
MAX_REPEATED = 50  # tags such as <b style="…">, which a paragraph may repeat
PICTURE = 10_000_000  # characters of a picture in base64

HIDDEN_CODE = "# … grading ran further checks with other inputs here"
NOT_SHOWN = "  expected  (not shown: a check that grading adds)"
LABELS = re.compile(r"  (came|raised|in|expected|differs|likely)\s")
SECRET = ("expected", "differs")


# --- a notebook of what can't act -----------------------------------------------------------------

PICTURES = ("image/png", "image/jpeg")
SHOWN = ("text/html", "text/markdown", *PICTURES, "text/plain")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # of a cell, to nbformat and to nbgrader
NAMES = ("student", "first_name", "last_name", "notebook_path")  # formgrader's, put into its page
PYTHON = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}


class Harmless(Preprocessor):
    """Builds a new notebook of texts, pictures, and HTML for `clean` and `markdown`.

    Outputs of other kinds are left out, and a line says so. Of the metadata only nbgrader's stay.
    """

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """The notebook and nbconvert's resources, without anything that acts."""
        for name in set(NAMES) & resources.keys():
            resources[name] = html.escape(str(resources[name])) if resources[name] else ""
        cells = [_cell(cell) for cell in nb.cells]
        return v4.new_notebook(cells=cells, metadata=PYTHON), resources


def _cell(cell: Any) -> Any:
    source, kind = _text(cell.get("source")), cell.get("cell_type")
    about = {"metadata": _metadata(cell)}
    if _is_name(cell.get("id")):
        about["id"] = cell["id"]
    if kind == "code":
        outputs = [part for output in _items(cell.get("outputs")) for part in _outputs(output)]
        return v4.new_code_cell(source, outputs=outputs, execution_count=_count(cell), **about)
    if kind == "markdown":
        pictures = _attachments(cell.get("attachments"))
        return v4.new_markdown_cell(source, **about, **pictures)
    return v4.new_markdown_cell(textwrap.indent(source, "    ", lambda _: True), **about)  # as code


def _metadata(cell: Any) -> dict[str, Any]:
    """nbgrader's metadata, each of its kind: its templates put them into the page as they are."""
    given = _dict(_dict(cell.get("metadata")).get("nbgrader"))
    if not _is_name(given.get("grade_id")):
        return {}
    kept = {name: given.get(name) is True for name in ("grade", "solution", "locked", "task")}
    if isinstance(given.get("points"), int | float):
        kept["points"] = given["points"]
    return {"nbgrader": {"grade_id": given["grade_id"], "schema_version": 3, **kept}}


def _is_name(given: Any) -> bool:
    return isinstance(given, str) and bool(NAME.fullmatch(given))


def _outputs(output: Any) -> Iterator[Any]:
    """An output, and a line on what of it isn't shown."""
    kind = output.get("output_type") if isinstance(output, dict) else None
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        yield v4.new_output("stream", name=name, text=_text(output.get("text")))
    elif kind == "error":
        name, text = _text(output.get("ename")), _text(output.get("evalue"))
        shown = _text("\n".join(map(_joined, _items(output.get("traceback")))))
        yield v4.new_output("error", ename=name, evalue=text, traceback=[shown])
    elif kind in ("display_data", "execute_result"):
        given = _dict(output.get("data"))
        data = {
            mime: _text(given[mime], TEXT if mime in ("text/plain", "text/markdown") else PICTURE)
            for mime in SHOWN
            if _is_shown(mime, given.get(mime))
        }
        if data:
            count = {"execution_count": _count(output)} if kind == "execute_result" else {}
            yield v4.new_output(kind, data=data, **count)
        if left_out := [_text(mime, 60) for mime in given.keys() - data.keys()]:
            yield _line(f"(not shown: {', '.join(sorted(left_out)[:5])})")
    else:
        yield _line("(an output that is not shown)")


def _is_shown(mime: str, given: Any) -> bool:
    text = _joined(given)
    if mime in PICTURES:
        return len(text) <= PICTURE and bool(BASE64.fullmatch(text))
    return bool(text) and not (mime == "text/html" and _is_slow(text))


def _attachments(given: Any) -> dict[str, Any]:
    """The pictures that belong to a markdown cell, as its argument."""
    found = {
        str(name): {m: _joined(forms[m]) for m in PICTURES if _is_shown(m, _dict(forms).get(m))}
        for name, forms in _dict(given).items()
    }
    kept = {name: forms for name, forms in found.items() if forms}
    return {"attachments": kept} if kept else {}


def _line(text: str) -> Any:
    return v4.new_output("stream", name="stdout", text=f"{text}\n")


def _count(given: Any) -> int | None:
    count = given.get("execution_count")
    return count if type(count) is int else None


def _joined(given: Any) -> str:
    """A text of a notebook, which may be stored as lines; "" for anything else."""
    if isinstance(given, list) and all(isinstance(line, str) for line in given):
        given = "".join(given)
    return _encodable(given) if isinstance(given, str) else ""


def _encodable(text: str) -> str:
    """The text with "?" for halves of characters (surrogates), which no page can hold."""
    return text.encode("utf-8", "replace").decode()


def _text(given: Any, most: int = TEXT) -> str:
    text = _joined(given)
    return text if len(text) <= most else f"{text[:most]}\n… ({len(text):,} characters)"


def _dict(given: Any) -> dict[str, Any]:
    return given if isinstance(given, dict) else {}


def _items(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []


# --- HTML of harmless tags ------------------------------------------------------------------------

HARMLESS = (
    "a abbr b blockquote br caption center code col colgroup dd del details div dl dt em "
    "h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre s samp small span strike strong sub "
    "summary sup table tbody td tfoot th thead tr tt u ul var"
)
TAGS = set(HARMLESS.split())
STYLES = {  # CSS properties
    "background-color",
    "color",
    "font-style",
    "font-weight",
    "text-align",
    "text-decoration",
    "vertical-align",
}
CLASSES = {"dataframe", "highlight", "hl-ipython3", *STANDARD_TYPES.values()}
PLAIN = {"title", "alt", "align"}
NUMBERS = {"border", "colspan", "height", "rowspan", "span", "start", "width"}
LINK = re.compile(
    r"https?://([a-z0-9-]+\.)+[a-z][a-z0-9-]*(:[0-9]+)?([/?#][^\s\\]*)?|mailto:\S+", re.I | re.A
)
DATA = re.compile(r"data:image/(png|jpeg|gif);base64,[A-Za-z0-9+/=]*")
EMBEDDED = re.compile(rf"(?<=src=[\"']){DATA.pattern}")
# Each paragraph repeats all of these tags that are open above it, if their attributes differ.
REPEATED = re.compile(r"<(b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)[\s/]", re.I)
NO_SOURCE = re.compile(r'<img(?: (?!src=)[a-z]+="[^"]*")*>')
CLEANER = nh3.Cleaner(
    tags=TAGS,
    clean_content_tags={"script", "style"},
    attributes={"*": {"class", "href", "src", "style", *PLAIN, *NUMBERS}},
    attribute_filter=lambda tag, name, value: value if _is_allowed(tag, name, value) else None,
    filter_style_properties=STYLES,
    url_schemes={"http", "https", "mailto", "data"},
    link_rel=None,
)


@pass_context
def clean(context: Any, text: Any) -> str:
    """Return HTML with harmless tags only: no script, no form, nothing loaded from elsewhere.

    Other tags are dropped and their text is kept, except for scripts and style sheets. A text that
    would take long to read as HTML is shown as plain text. In formgrader a link only shows its
    address, because a click could make formgrader load other settings.
    """
    return _cleaned(_encodable(str(text)), inert="submission_id" in context.get("resources", {}))


def _cleaned(text: str, inert: bool) -> str:
    if _is_slow(text):
        return f"<pre>{html.escape(_text(text))}</pre>"
    # In the cleaned text a "<" begins a tag, as no attribute holds one; a link has its href only.
    cleaned = NO_SOURCE.sub("(a picture that is not shown)", CLEANER.clean(text))
    address = "title=" if inert else 'rel="noopener noreferrer" target="_blank" href='
    cleaned = cleaned.replace("<a href=", f"<a {address}")
    # MathJax makes links, too, of \\href.
    return cleaned.strip().replace("\\href", "\\\u200bhref")


def _is_slow(text: str) -> bool:
    """Whether reading it as HTML may take more than about a second."""
    bare = EMBEDDED.sub("", text)
    return (
        len(text) > PICTURE
        or len(bare) > HTML
        or bare.count("<") > MAX_TAGS
        or len(REPEATED.findall(bare)) > MAX_REPEATED
    )


def _is_allowed(tag: str, name: str, value: str) -> bool:
    """Whether an attribute stays. Attributes with "<" or ">" don't: see `_cleaned`."""
    if re.search("[<>]", value):
        return False
    if name == "href" or tag == "a":
        return (tag, name) == ("a", "href") and bool(LINK.fullmatch(value))
    if name == "src":
        return tag == "img" and bool(DATA.fullmatch(value))
    if name == "style":
        return not re.search(r"url|\\", value, re.I)
    if name == "class":
        return set(value.split()) <= CLASSES
    return name in PLAIN or (name in NUMBERS and bool(re.fullmatch(r"[0-9]{1,4}", value)))


@pass_context
def markdown(context: Any, source: Any) -> str:
    """Markdown as harmless HTML; one that can't be read, or is too long, stands as text."""
    attachments = context.get("cell", {}).get("attachments", {})
    renderer = IPythonRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
    text = str(source)
    if len(text) <= MARKDOWN:
        with suppress(Exception):  # the reader's own faults, such as a picture that is missing
            return clean(context, MarkdownWithMath(renderer=renderer).render(text))
    return f"<pre>{html.escape(text)}</pre>"


# --- the second fence: a Content-Security-Policy --------------------------------------------------

# MathJax comes from where nbconvert takes it, and reads its settings as code.
MATHJAX = "https://cdnjs.cloudflare.com/ajax/libs/mathjax/2.7.7/"
POLICY = {
    "default-src": "'none'",
    "script-src": f"{MATHJAX} 'unsafe-eval'",
    "style-src": "'unsafe-inline'",
    "font-src": f"'self' data: {MATHJAX}",
    "img-src": "data:",
    "base-uri": "'none'",
    "form-action": "'none'",
}


def policy(own: str) -> str:
    """Return the Content-Security-Policy of a page: what may be loaded and run below its head.

    Args:
        own: formgrader's own HTML in the body; its scripts may run and reach formgrader.
    """
    rules = dict(POLICY)
    if own:
        rules["script-src"] += f" 'unsafe-hashes' {_hashes(own)}"
        rules["connect-src"] = "'self'"
    return "; ".join(f"{name} {sources}" for name, sources in rules.items())


def _hashes(trusted: str) -> str:
    """Of the scripts in some HTML, and of what its elements do on events, as a policy has them."""
    found = BeautifulSoup(trusted, "html.parser").find_all(True)
    codes = [tag.string for tag in found if tag.name == "script" and tag.string]
    codes += [tag[name] for tag in found for name in tag.attrs if name.startswith("on")]
    digests = (hashlib.sha256(code.encode()).digest() for code in dict.fromkeys(codes))
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


# --- feedback: hidden tests stay hidden -----------------------------------------------------------


class SafeFeedback(Preprocessor):
    """Leaves out hidden tests and what they expect; a test cell shows its check's message alone."""

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """The notebook as its student may see it, and nbgrader's notes as files beside it."""
        for cell in nb.cells:
            if cell.cell_type == "code":
                source, cell.source = cell.source, without_hidden(cell.source)
                about = cell.metadata.get("nbgrader", {})
                if about.get("grade") and not about.get("solution"):
                    cell.outputs = [
                        _told(output, source) for output in cell.outputs if _is_error(output)
                    ]
        notes = _notes(resources["metadata"].get("path", ""))
        resources["outputs"] = {**resources.get("outputs", {}), **notes}
        return nb, resources


def without_hidden(source: str) -> str:
    """A test cell's source with one comment for each region of hidden tests."""
    kept, hidden = [], False
    for line in source.split("\n"):
        if HIDDEN in line and not hidden:
            hidden = True
            kept.append(line[: len(line) - len(line.lstrip())] + HIDDEN_CODE)
        elif not hidden:
            kept.append(line)
        elif HIDDEN_END in line:
            hidden = False
    return "\n".join(kept)


def _without_expected(message: str) -> str:
    """The message of a failed check without the lines that tell what was expected."""
    kept, secret = [], False
    for line in message.split("\n"):
        if label := LABELS.match(line):
            secret = label[1] in SECRET
            if label[1] == "expected":
                kept.append(NOT_SHOWN)
        if not secret:
            kept.append(line)
    return "\n".join(kept)


def _is_error(output: Any) -> bool:
    return output.output_type == "error"


def _told(error: Any, source: str) -> Any:
    """A test cell's error without a traceback, which would quote the cell."""
    text = strip_ansi("\n".join(error.traceback))
    if error.ename != "CheckFailed" or not text.startswith((PREFIX, HIDDEN_PREFIX)):
        text = f"{error.ename}: {error.evalue}"
    elif text.startswith(HIDDEN_PREFIX):
        text = _without_expected(text)
    elif not _can_come_from(source.partition(HIDDEN)[0], text.removeprefix(PREFIX)):
        text = _without_expected(text.replace(PREFIX, HIDDEN_PREFIX, 1))
    return v4.new_output("error", ename=error.ename, evalue="", traceback=[text])


def _can_come_from(visible: str, message: str) -> bool:
    """Whether a check in the visible part of a cell can have made the call that a message shows."""
    lines = message.split("\n")
    end = next((i for i, line in enumerate(lines) if LABELS.match(line)), len(lines))
    shown = _squeezed("".join(lines[:end]))
    try:
        nodes = list(ast.walk(ast.parse(visible)))
    except SyntaxError:
        return False
    calls = (node for node in nodes if isinstance(node, ast.Call) and node.args)
    starts = [_start(call) for call in calls if ast.unparse(call.func) == "check"]
    return any(shown.startswith(start) for start in starts)


def _start(call: ast.Call) -> str:
    """How a check's message begins: the whole call, or its name if values aren't in the source."""
    name = ast.unparse(call.args[0])
    try:
        args = [ast.literal_eval(arg) for arg in call.args[1:]]
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError:
        return f"{name}("
    return _squeezed(checks.call_text(name, tuple(args), kwargs))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _notes(folder: str) -> dict[str, bytes]:
    """nbgrader's notes on a submission, by file name, that lie in a folder and are what they seem.

    When it was handed in tells nbgrader whether feedback is up to date; by the secret it hands
    feedback out, through the exchange.
    """
    secret = _note(folder, "submission_secret.txt")
    notes = {"submission_secret.txt": secret} if re.fullmatch(r"[0-9a-f]{128}", secret) else {}
    with suppress(ValueError, OverflowError):
        notes["timestamp.txt"] = parse_utc(_note(folder, "timestamp.txt")).isoformat(" ")
    return {name: text.encode() for name, text in notes.items()}


def _note(folder: str, name: str) -> str:
    """The text of a small file; "" for anything else, such as a link."""
    path = Path(folder, name)
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 200:
        return ""
    return path.read_bytes().decode("ascii", "replace").strip()
