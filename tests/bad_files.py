"""Ten kinds of bad files, and what `course finetune` says about each of them.

`python -m tests.bad_files` writes the table into docs/your-own-data.md.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import textwrap
from pathlib import Path

from course_utils.files import write_text
from course_utils.tuning.data import DataError, check_lengths, read_data
from tests.conftest import make_tokenizer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "your-own-data.md"
BEGIN, END = "<!-- bad files: begin -->\n", "<!-- bad files: end -->"
ROWS = [{"prompt": f"Question {n}?", "answer": f"Answer {n}."} for n in range(20)]
LONG = {"prompt": "Why? " * 50, "answer": "Because."}


def lines(*rows: object) -> bytes:
    """Return the bytes of a file with these rows."""
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return ("\n".join(texts) + "\n").encode()


FILES = {
    "a line that is not JSON": lines(*ROWS, '{"prompt": "a", "answer": }'),
    "an answer is missing": lines(*ROWS, {"prompt": "Question?"}),
    "an answer is empty": lines(*ROWS, {"prompt": "Question?", "answer": " "}),
    "an answer is a number": lines(*ROWS, {"prompt": "Question?", "answer": 7}),
    "the last message is the user's": lines(
        *({"messages": [{"role": r, "content": "a"} for r in ("assistant", "user")]} for _ in "ab")
    ),
    "keys with other names": lines({"query": "a", "gold": "b"}),
    "a JSON list instead of lines": json.dumps(ROWS).encode(),
    "a compressed file": gzip.compress(lines(*ROWS)),
    "too few rows": lines(*ROWS[:4]),
    "a row that is too long": lines(*ROWS, LONG),
}


def told(content: bytes) -> str:
    """Return the beginning of the error for a file with this content, as one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my.jsonl"
        path.write_bytes(content)
        try:
            check_lengths(read_data(path), make_tokenizer(), 200)
        except DataError as error:
            text = " ".join(line.strip() for line in str(error).split("\n")[:2])
            return textwrap.shorten(text, 160, placeholder=" …")
    raise AssertionError("the file was accepted")


def table() -> str:
    """Return a Markdown table of the files and the errors."""
    rows = [f"| {name} | {told(content)} |" for name, content in FILES.items()]
    return "\n".join(["| file | error |", "|---|---|", *rows]) + "\n"


def quoted() -> str:
    """Return the table that the page has now."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def renew() -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    write_text(PAGE, f"{before}{BEGIN}{table()}{END}{after}")


if __name__ == "__main__":
    renew()
    sys.stdout.write(table())
