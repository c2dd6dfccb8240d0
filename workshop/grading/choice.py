"""Choose which notebook is graded if a student handed in several.

    09_sums.ipynb       other notebooks                 graded
    complete            any                             09_sums.ipynb
    untouched           one contains answers            this one
    not readable        one contains answers            this one, and a person should check
    not readable        several contain answers         none: the submission is ungradable
    otherwise           some contain missing answers    09_sums.ipynb, and a person should check
    incomplete          a .py file has missing answers  09_sums.ipynb, and a person should check

Each choice except the first is noted, and the note names the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from workshop.grading.assignments import grade_id, is_answer
from workshop.grading.read import quoted
from workshop.grading.repair import DEFINES, Repaired, Ungradable
from workshop.grading.spec import Files, Submission, is_notebook

# Maximum number of other notebooks, and of .py files, that are read.
MAX_OTHERS = 10
# Maximum number of bytes (B) of a .py file in which missing answers are searched.
MAX_SCRIPT = 1_000_000


def choose(submission: Submission, known: Files, repair: Callable[[bytes], Repaired]) -> Repaired:
    """Return the repaired notebook of a submission, or of another file that has the answers.

    Other notebooks are read only if an answer is missing. If it is uncertain which notebook
    counts, the result contains a doubt.

    Args:
        repair: A function that repairs a notebook. It raises Ungradable if that is impossible.

    Raises:
        Ungradable: The submission's own notebook can't be repaired, and not exactly one of the
            others contains answers.
    """
    try:
        own = repair(submission.notebook or b"")
    except Ungradable as error:
        others = {p: other for p, other in _others(submission, known, repair) if _answers(other)}
        if not others:
            raise
        if len(others) > 1:
            names = ", ".join(others)
            raise Ungradable(f"{error} (there are answers in {names})") from None
        ((path, other),) = others.items()
        doubt = f"{path} was graded, because {quoted(submission.path)} can't be graded: {error}"
        return replace(other, doubts=(doubt, *other.doubts))
    if not (missing := set(own.unanswered)):
        return own
    found = {
        path: other
        for path, other in _others(submission, known, repair)
        if missing & _answers(other)
    }
    own_path = quoted(submission.path)
    if len(found) == 1 and not (_answers(own) or own.doubts):
        ((path, other),) = found.items()
        note = f"{own_path} contains no answers, so {path} was graded"
        return replace(other, notes=(note, *other.notes))
    if found:
        names = ", ".join(sorted(missing & set().union(*map(_answers, found.values()))))
        files = ", ".join(found)
        doubt = f"there are answers in {files} that are missing in {own_path}: {names}"
        return replace(own, doubts=(*own.doubts, doubt))
    if doubts := [*_scripts(submission, known, own, missing)]:
        return replace(own, doubts=(*own.doubts, *doubts))
    return own


def _scripts(
    submission: Submission, known: Files, own: Repaired, missing: set[str]
) -> Iterator[str]:
    """Yield a doubt for each .py file that defines a function of a missing answer."""
    cells = [cell for cell in own.notebook["cells"] if grade_id(cell) in missing]
    names = {name for cell in cells for name in _defined(cell["source"])}
    scripts = [path for path in sorted(submission.files.keys() - known) if path.endswith(".py")]
    for path in scripts[:MAX_OTHERS]:
        source = submission.files[path][:MAX_SCRIPT].decode("utf-8", "replace")
        if found := ", ".join(sorted(names & _defined(source))):
            yield f"{quoted(path)} defines {found}, without an answer in {quoted(submission.path)}"


def _defined(source: str) -> set[str]:
    return {function or name for function, name in DEFINES.findall(source)}


def _answers(repaired: Repaired) -> set[str | None]:
    """Return the ids of the answers that contain a student's work."""
    cells = repaired.notebook["cells"]
    return {grade_id(cell) for cell in cells if is_answer(cell)} - set(repaired.unanswered)


def _others(
    submission: Submission, known: Files, repair: Callable[[bytes], Repaired]
) -> Iterator[tuple[str, Repaired]]:
    """Yield the quoted path of each other notebook that can be repaired, and the repaired notebook.

    Of equal files, only the first one is used. Files in hidden folders, such as Jupyter's
    checkpoints, are left out.
    """
    paths = [p for p in sorted(submission.files) if is_notebook(p) and p not in known]
    visible = [path for path in paths if not path.startswith(".") and "/." not in path]
    contents: set[bytes] = set()
    for path in visible[:MAX_OTHERS]:
        if (data := submission.files[path]) not in contents:
            contents.add(data)
            with suppress(Ungradable):
                yield quoted(path), repair(data)
