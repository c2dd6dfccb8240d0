"""Count the lines of code of each room, and fail if a room has more than its budget.

    python -m workshop.budget

The budgets stand in pyproject.toml, below [tool.course.budget]: a folder or file, and the most
lines of code that its Python files may have. Blank lines, comments and docstrings are free, so
nobody saves lines by explaining less. For docs and README.md, words are counted instead.
"""

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

NO_CODE = (
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENDMARKER, tokenize.ENCODING),
)


@cache
def code_lines(source: str) -> int:
    """Count the lines that contain code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans = [(t.start[0], t.end[0]) for t in tokens if t.type not in NO_CODE]
    code = {line for first, last in spans for line in range(first, last + 1)}
    return len(code - set(_docstring_lines(ast.parse(source))))


def _docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            yield from range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def size(room: str, path: Path) -> int:
    """Return the words of a page of the docs or README, or the lines of code of a Python file."""
    suffix = ".md" if room in ("docs", "README.md") else ".py"
    if path.suffix != suffix or not path.is_file():
        return 0
    text = path.read_text(encoding="utf-8")
    return len(text.split()) if suffix == ".md" else code_lines(text)


def main(root: Path = Path()) -> int:
    """Print the size and the budget of each room, and return 1 if a room exceeds its budget."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
    )
    files = listed.stdout.split("\0")
    status = 0
    for room, budget in settings["tool"]["course"]["budget"].items():
        inside = [name for name in files if name == room or name.startswith(f"{room}/")]
        found = sum(size(room, root / name) for name in inside)
        print(f"{room:28}{found:8,} of {budget:8,}{'' if found <= budget else '  TOO MANY'}")
        status |= found > budget
    return status


if __name__ == "__main__":
    sys.exit(main())
