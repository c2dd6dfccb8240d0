"""Count the lines of code of each room, and fail if a room has more than its budget.

    python -m workshop.budget

The budgets stand in pyproject.toml, below [tool.course.budget]: a folder or file, and the most
lines of code that its Python files may have. Blank lines, comments and docstrings are free, so
nobody saves lines by explaining less. For docs and README.md, words are counted instead.
"""

import io
import subprocess
import sys
import tokenize
import tomllib
from functools import cache
from pathlib import Path


def code_lines(source: str) -> int:
    """Count the lines that contain code."""
    lines: set[int] = set()
    starts = True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            starts = True
        elif token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER):
            # A statement that begins with a string is a docstring.
            if not starts or token.type != tokenize.STRING:
                lines.update(range(token.start[0], token.end[0] + 1))
            starts = False
    return len(lines)


@cache
def size(path: Path, suffix: str) -> int:
    """Return the words of a page, or the lines of code of a Python file; 0 for other files."""
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
        suffix = ".md" if room in ("docs", "README.md") else ".py"
        found = sum(size(root / name, suffix) for name in inside)
        print(f"{room:28}{found:8,} of {budget:8,}{'' if found <= budget else '  TOO MANY'}")
        status |= found > budget
    return status


if __name__ == "__main__":
    sys.exit(main())
