"""Convert notebooks to safe HTML pages: no student's script runs, and hidden tests stay hidden.

nbgrader converts notebooks to HTML in two places: formgrader shows the page to the instructor, and
feedback shows the page to the student. formgrader and feedback use nbconvert's HTMLExporter, which
nbgrader_config.py extends:

    HTMLExporter.preprocessors      Harmless           rebuilds the notebook without active content
    HTMLExporter.filters            clean, markdown    allow only harmless HTML tags
    HTMLExporter.template_file      harmless.html.j2   adds a Content-Security-Policy
    GenerateFeedback.preprocessors  SafeFeedback       removes hidden tests and expected values

Without the preprocessor and the filters, a script in a student's output or text would run with the
instructor's rights in formgrader and could change grades. Even the address of a picture could make
formgrader load other settings. The Content-Security-Policy is a second protection.
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

from course_utils.exercise import checks
from course_utils.exercise.checks import HIDDEN, HIDDEN_PREFIX, PREFIX
from workshop.grading.assignments import HIDDEN_END

# Number of characters of a source or an output that are shown.
MAX_TEXT = 100_000
# Maximum length of a text that is converted from Markdown; longer texts are shown unchanged.
MAX_MARKDOWN = 10_000
# Maximum length of a text that is parsed as HTML, without embedded pictures, in characters.
MAX_HTML = 100_000
# Maximum number of tags in a text that is parsed as HTML.
MAX_TAGS = 10_000
# Maximum number of tags such as <b style="…">, which an HTML parser may repeat in each paragraph.
MAX_REPEATED = 50
# Maximum length of a picture in base64, in characters.
MAX_PICTURE = 10_000_000

# The comment that replaces a region of hidden tests.
HIDDEN_CODE = "# … grading ran further checks with other inputs here"
NOT_SHOWN = "  expected  (not shown: a check that grading adds)"
# The labels of the lines in a failed check's message, and the labels that show expected values.
LABELS = re.compile(r"  (returned|raised|in|expected|differs|likely|try)\s")
SECRET_LABELS = ("expected", "differs")


# --- a notebook without active content ------------------------------------------------------------

PICTURE_TYPES = ("image/png", "image/jpeg")
SHOWN_TYPES = ("text/html", "text/markdown", *PICTURE_TYPES, "text/plain")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")
# The ids of cells that both nbformat and nbgrader allow.
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# Values that formgrader's template inserts into the page without escaping them.
UNESCAPED = ("student", "first_name", "last_name", "notebook_path")
METADATA = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}


class Harmless(Preprocessor):
    """Builds a new notebook with only texts, pictures and HTML that `clean` and `markdown` filter.

    Any other output is replaced by a line that says that it is not shown. All metadata of cells are
    dropped except nbgrader's.
    """

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Return the notebook and nbconvert's resources without active content."""
        for name in set(UNESCAPED) & resources.keys():
            resources[name] = html.escape(str(resources[name])) if resources[name] else ""
        cells = [_cell(cell) for cell in nb.cells]
        return v4.new_notebook(cells=cells, metadata=METADATA), resources


def _cell(cell: Any) -> Any:
    source, kind = _text(cell.get("source")), cell.get("cell_type")
    fields = {"metadata": _metadata(cell)}
    if _is_name(cell.get("id")):
        fields["id"] = cell["id"]
    if kind == "code":
        outputs = [part for output in _items(cell.get("outputs")) for part in _outputs(output)]
        return v4.new_code_cell(source, outputs=outputs, execution_count=_count(cell), **fields)
    if kind == "markdown":
        pictures = _attachments(cell.get("attachments"))
        return v4.new_markdown_cell(source, **fields, **pictures)
    # Show a cell of another type as a code block.
    return v4.new_markdown_cell(textwrap.indent(source, "    ", lambda _: True), **fields)


def _metadata(cell: Any) -> dict[str, Any]:
    """Return nbgrader's metadata of a cell, with checked types.

    The types are checked because nbgrader's templates insert these values without escaping them.
    """
    data = _dict(_dict(cell.get("metadata")).get("nbgrader"))
    if not _is_name(data.get("grade_id")):
        return {}
    fields = {name: data.get(name) is True for name in ("grade", "solution", "locked", "task")}
    if isinstance(data.get("points"), int | float):
        fields["points"] = data["points"]
    metadata = {"nbgrader": {"grade_id": data["grade_id"], "schema_version": 3, **fields}}
    bonus = _dict(_dict(cell.get("metadata")).get("qlora_course")).get("bonus")
    return metadata | ({"qlora_course": {"bonus": bonus}} if type(bonus) is int else {})


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(NAME.fullmatch(value))


def _outputs(output: Any) -> Iterator[Any]:
    """Yield a safe copy of an output, and a line that names the parts that aren't shown."""
    kind = output.get("output_type") if isinstance(output, dict) else None
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        yield v4.new_output("stream", name=name, text=_text(output.get("text")))
    elif kind == "error":
        name, text = _text(output.get("ename")), _text(output.get("evalue"))
        traceback = _text("\n".join(map(_joined, _items(output.get("traceback")))))
        yield v4.new_output("error", ename=name, evalue=text, traceback=[traceback])
    elif kind in ("display_data", "execute_result"):
        data = _dict(output.get("data"))
        safe = {mime: _content(mime, data[mime]) for mime in SHOWN_TYPES if _is_shown(mime, data)}
        if safe:
            count = {"execution_count": _count(output)} if kind == "execute_result" else {}
            yield v4.new_output(kind, data=safe, **count)
        if left_out := [_text(mime, 60) for mime in data.keys() - safe.keys()]:
            yield _line(f"(not shown: {', '.join(sorted(left_out)[:5])})")
    else:
        yield _line("(an output that is not shown)")


def _is_shown(mime: str, data: dict[str, Any]) -> bool:
    """Return whether an output or an attachment has a safe content of a MIME type."""
    text = _joined(data.get(mime))
    if mime in PICTURE_TYPES:
        return len(text) <= MAX_PICTURE and bool(BASE64.fullmatch(text))
    return bool(text) and not (mime == "text/html" and _is_slow(text))


def _content(mime: str, content: Any) -> str:
    return _text(content) if mime in ("text/plain", "text/markdown") else _joined(content)


def _attachments(attachments: Any) -> dict[str, Any]:
    """Return the argument `attachments` with a Markdown cell's pictures; empty without pictures."""
    pictures = {}
    for name, data in _dict(attachments).items():
        forms = _dict(data)
        if safe := {mime: _joined(forms[mime]) for mime in PICTURE_TYPES if _is_shown(mime, forms)}:
            pictures[str(name)] = safe
    return {"attachments": pictures} if pictures else {}


def _line(text: str) -> Any:
    return v4.new_output("stream", name="stdout", text=f"{text}\n")


def _count(fields: Any) -> int | None:
    count = fields.get("execution_count")
    return count if type(count) is int else None


def _joined(value: Any) -> str:
    """Return a notebook's text, which may be stored as a list of lines; "" if it is no text."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(value)
    return _encodable(value) if isinstance(value, str) else ""


def _encodable(text: str) -> str:
    """Return the text with "?" in place of surrogates, which can't be encoded as UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _text(value: Any, max_length: int = MAX_TEXT) -> str:
    """Return a notebook's text as `_joined` does, cut to `max_length` characters."""
    text = _joined(value)
    if len(text) <= max_length:
        return text
    return f"{text[:max_length]}\n… ({len(text):,} characters)"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# --- HTML of harmless tags ------------------------------------------------------------------------

HARMLESS = (
    "a abbr b blockquote br caption center code col colgroup dd del details div dl dt em "
    "h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre s samp small span strike strong sub "
    "summary sup table tbody td tfoot th thead tr tt u ul var"
)
TAGS = set(HARMLESS.split())
# CSS properties that are allowed in the attribute `style`.
STYLES = {
    "background-color",
    "color",
    "font-style",
    "font-weight",
    "text-align",
    "text-decoration",
    "vertical-align",
}
CLASSES = {"dataframe", "highlight", "hl-ipython3", *STANDARD_TYPES.values()}
TEXT_ATTRIBUTES = {"title", "alt", "align"}
NUMBER_ATTRIBUTES = {"border", "colspan", "height", "rowspan", "span", "start", "width"}
LINK = re.compile(
    r"https?://([a-z0-9-]+\.)+[a-z][a-z0-9-]*(:[0-9]+)?([/?#][^\s\\]*)?|mailto:\S+", re.I | re.A
)
PICTURE_DATA = re.compile(r"data:image/(png|jpeg|gif);base64,[A-Za-z0-9+/=]*")
EMBEDDED = re.compile(rf"(?<=src=[\"']){PICTURE_DATA.pattern}")
# An HTML parser repeats these open tags in each paragraph if their attributes differ.
REPEATED = re.compile(r"<(b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)[\s/]", re.I)
# A picture of `figures`. Its content ends at the next tag of an <svg>, so that searching is fast.
SVG_PICTURE = re.compile(
    r'<svg role="img" aria-label="([^"]*)"[^>]*>(?:(?!</?svg).)*</svg>', re.DOTALL
)
IMG_WITHOUT_SRC = re.compile(r'<img(?: (?!src=)[a-z]+="[^"]*")*>')
CLEANER = nh3.Cleaner(
    tags=TAGS,
    clean_content_tags={"script", "style"},
    attributes={"*": {"class", "href", "src", "style", *TEXT_ATTRIBUTES, *NUMBER_ATTRIBUTES}},
    attribute_filter=lambda tag, name, value: _allowed(tag, name, value),
    filter_style_properties=STYLES,
    url_schemes={"http", "https", "mailto", "data"},
    link_rel=None,
)


@pass_context
def clean(context: Any, text: Any) -> str:
    """Return HTML with harmless tags only: without scripts, forms and content from other addresses.

    Other tags are dropped but their text is kept, except the text of scripts and style sheets. If
    parsing a text as HTML would be slow, the text is shown as plain text. A picture of
    `course_utils.figures` becomes its description. In formgrader, a link only shows its address,
    because a click could make formgrader load other settings.
    """
    return _cleaned(_encodable(str(text)), inert="submission_id" in context.get("resources", {}))


def _cleaned(text: str, inert: bool) -> str:
    text = SVG_PICTURE.sub(r"<p>(A picture: \1)</p>", text)
    if _is_slow(text):
        return f"<pre>{html.escape(_text(text))}</pre>"
    # In the cleaned text, each "<" begins a tag, because no attribute contains "<". The only
    # attribute of a link is href.
    cleaned = IMG_WITHOUT_SRC.sub("(a picture that is not shown)", CLEANER.clean(text))
    address = "title=" if inert else 'rel="noopener noreferrer" target="_blank" href='
    cleaned = cleaned.replace("<a href=", f"<a {address}")
    # MathJax would turn \\href into a link.
    return cleaned.strip().replace("\\href", "\\\u200bhref")


def _is_slow(text: str) -> bool:
    """Return whether parsing a text as HTML may need more than about one second."""
    bare = EMBEDDED.sub("", text)
    return (
        len(text) > MAX_PICTURE
        or len(bare) > MAX_HTML
        or bare.count("<") > MAX_TAGS
        or len(REPEATED.findall(bare)) > MAX_REPEATED
    )


def _allowed(tag: str, name: str, value: str) -> str | None:
    """Return an attribute's value without "<" and ">"; None if the attribute is dropped.

    `_cleaned` relies on the fact that no value contains these two characters.
    """
    if name in ("alt", "title") and tag != "a":
        value = value.replace("<", "\u2039").replace(">", "\u203a")
    elif name == "href":
        value = value.replace("<", "%3C").replace(">", "%3E")
    elif re.search("[<>]", value):
        return None
    return value if _is_allowed(tag, name, value) else None


def _is_allowed(tag: str, name: str, value: str) -> bool:
    if name == "href" or tag == "a":
        return (tag, name) == ("a", "href") and bool(LINK.fullmatch(value))
    if name == "src":
        return tag == "img" and bool(PICTURE_DATA.fullmatch(value))
    if name == "style":
        return not re.search(r"url|\\", value, re.I)
    if name == "class":
        return set(value.split()) <= CLASSES
    return name in TEXT_ATTRIBUTES or (
        name in NUMBER_ATTRIBUTES and bool(re.fullmatch(r"[0-9]{1,4}", value))
    )


@pass_context
def markdown(context: Any, source: Any) -> str:
    """Return Markdown as harmless HTML.

    A text that can't be parsed, or that is longer than MAX_MARKDOWN, is returned as preformatted
    text.
    """
    attachments = context.get("cell", {}).get("attachments", {})
    renderer = IPythonRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
    text = str(source)
    if len(text) <= MAX_MARKDOWN:
        # The parser raises various exceptions, for example if a picture is missing.
        with suppress(Exception):
            return clean(context, MarkdownWithMath(renderer=renderer).render(text))
    return f"<pre>{html.escape(text)}</pre>"


# --- the second protection: a Content-Security-Policy ---------------------------------------------

# nbconvert loads MathJax from this address. MathJax needs 'unsafe-eval' to evaluate its settings.
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


def policy(trusted: str) -> str:
    """Return a page's Content-Security-Policy, which limits what the page's body may load and run.

    Args:
        trusted: formgrader's own HTML in the page's body, or "". Scripts in this HTML may run and
            send requests to formgrader.
    """
    rules = dict(POLICY)
    if trusted:
        rules["script-src"] += f" 'unsafe-hashes' {_hashes(trusted)}"
        rules["connect-src"] = "'self'"
    return "; ".join(f"{name} {sources}" for name, sources in rules.items())


def _hashes(trusted: str) -> str:
    """Return the policy's hashes of all scripts and event handlers in trusted HTML."""
    tags = BeautifulSoup(trusted, "html.parser").find_all(True)
    scripts = [str(tag.string) for tag in tags if tag.name == "script" and tag.string]
    scripts += [str(tag[name]) for tag in tags for name in tag.attrs if name.startswith("on")]
    digests = (hashlib.sha256(script.encode()).digest() for script in dict.fromkeys(scripts))
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


# --- feedback: hidden tests stay hidden -----------------------------------------------------------


class SafeFeedback(Preprocessor):
    """Removes hidden tests and the values that they expect from a student's feedback.

    All outputs of a test cell are removed except the message of an error, such as a failed check.
    """

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Return the notebook as the student may see it; add nbgrader's files to the resources."""
        for cell in nb.cells:
            if cell.cell_type == "code":
                source, cell.source = cell.source, without_hidden(cell.source)
                data = cell.metadata.get("nbgrader", {})
                if data.get("grade") and not data.get("solution"):
                    errors = [o for o in cell.outputs if o.output_type == "error"]
                    cell.outputs = [_safe_error(error, source) for error in errors]
        files = _exchange_files(resources["metadata"].get("path", ""))
        resources["outputs"] = {**resources.get("outputs", {}), **files}
        return nb, resources


def without_hidden(source: str) -> str:
    """Return a test cell's source with one comment in place of each region of hidden tests."""
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
    """Return the message of a failed check without the lines that show the expected result."""
    kept, secret = [], False
    for line in message.split("\n"):
        if label := LABELS.match(line):
            secret = label[1] in SECRET_LABELS
            if label[1] == "expected":
                kept.append(NOT_SHOWN)
        if not secret:
            kept.append(line)
    return "\n".join(kept)


def _safe_error(error: Any, source: str) -> Any:
    """Return a test cell's error without the traceback, which would quote the cell."""
    text = strip_ansi("\n".join(error.traceback))
    if error.ename != "CheckFailed" or not text.startswith((PREFIX, HIDDEN_PREFIX)):
        text = checks.joined_lines(f"{error.ename}: {error.evalue}")
    elif text.startswith(HIDDEN_PREFIX):
        text = _without_expected(text)
    elif not _is_from(source.partition(HIDDEN)[0], text.removeprefix(PREFIX)):
        text = _without_expected(text.replace(PREFIX, HIDDEN_PREFIX, 1))
    return v4.new_output("error", ename=error.ename, evalue="", traceback=[text])


def _is_from(visible: str, message: str) -> bool:
    """Return whether a check in a cell's visible part can have made the call in a message."""
    lines = message.split("\n")
    end = next((i for i, line in enumerate(lines) if LABELS.match(line)), len(lines))
    call_text = _without_spaces("".join(lines[:end]))
    try:
        nodes = list(ast.walk(ast.parse(visible)))
    except SyntaxError:
        return False
    calls = (node for node in nodes if isinstance(node, ast.Call) and node.args)
    starts = [_start(call) for call in calls if ast.unparse(call.func) == "check"]
    return any(call_text.startswith(start) for start in starts)


def _start(call: ast.Call) -> str:
    """Return the beginning of a check's message.

    The message begins with the whole call if the source contains all arguments as literals. If not,
    only the function's name is known.
    """
    name = ast.unparse(call.args[0])
    try:
        args = [ast.literal_eval(arg) for arg in call.args[1:]]
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError:
        return f"{name}("
    return _without_spaces(checks.call_text(name, tuple(args), kwargs))


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _exchange_files(folder: str) -> dict[str, bytes]:
    """Return the valid files of nbgrader's exchange in a submission's folder, by file name.

    nbgrader compares the timestamp to find out whether feedback is up to date. The exchange uses
    the secret to return feedback to the right student.
    """
    secret = _small_text(folder, "submission_secret.txt")
    texts = {"submission_secret.txt": secret} if re.fullmatch(r"[0-9a-f]{128}", secret) else {}
    with suppress(ValueError, OverflowError):
        texts["timestamp.txt"] = parse_utc(_small_text(folder, "timestamp.txt")).isoformat(" ")
    return {name: text.encode() for name, text in texts.items()}


def _small_text(folder: str, name: str) -> str:
    """Return the text of a small regular file; "" if the path is anything else, such as a link."""
    path = Path(folder, name)
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 200:
        return ""
    return path.read_bytes().decode("ascii", "replace").strip()
