"""nbgrader's settings: the root of this repository is an nbgrader course.

JupyterLab's nbgrader extensions and the commands `nbgrader …` read this file when they start in
this folder; from elsewhere, `nbgrader … --course-dir FOLDER` does. Fetched assignments have a
configuration of their own, which leads here: `my_assignments/nbgrader_config.py`.
"""

import contextlib
import os
import shutil
import sysconfig
from pathlib import Path

import course_utils

c = get_config()  # noqa: F821 (traitlets puts it into this file's namespace)

ROOT = Path(__file__).resolve().parent

# --- the course ----------------------------------------------------------------------------------

c.CourseDirectory.course_id = "qlora"  # the exchange's folder of this course
c.CourseDirectory.root = str(ROOT)  # else: the folder in which nbgrader was started
c.CourseDirectory.source_directory = "solutions"  # written by hand
c.CourseDirectory.release_directory = "exercises"  # generated from it; what students get

# nbgrader makes its database with the program alembic, which it looks for on the PATH. The programs
# of .venv aren't there when `make lab` or `.venv/bin/nbgrader` was the command.
if not shutil.which("alembic"):
    os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")

# --- the exchange: where assignments are released, submitted and handed back ----------------------

# nbgrader's own default isn't writable without an administrator. A class on one machine names a
# folder that everybody can reach; the default serves one person who tries things out.
exchange = ROOT / (os.environ.get("QLORA_COURSE_EXCHANGE") or "exchange")

# nbgrader lets only the command `release_assignment` make the folder, but formgrader and the
# Assignment List offer nothing while it is missing. Everybody may write to it, as nbgrader demands;
# nobody may remove what is another's (the sticky bit, as for /tmp). If it is there, or can't be
# made, nothing is done here, and nbgrader says what is wrong where the exchange is used.
with contextlib.suppress(OSError):
    exchange.mkdir(parents=True)
    exchange.chmod(0o1777)

c.Exchange.root = str(exchange)
c.Exchange.assignment_dir = str(ROOT / "my_assignments")  # of fetched ones; else: the root

# --- running a notebook: autograding and the button "Validate" ------------------------------------

# Seconds for one cell; nbgrader's 30 are little for a busy machine that imports PyTorch.
c.Execute.timeout = 60
c.Execute.extra_arguments = ["--IPKernelApp.log_level=CRITICAL"]  # no warning for each kernel

# nbgrader runs students' code unprotected, next to its tests. These steps of `course grade` run it
# in a sandbox, and the tests elsewhere (docs/grading.md): for `nbgrader autograde` and formgrader,
# too.
c.Autograde.sanitize_preprocessors = [
    "course_utils.grading.plugins.Repaired",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.autograde_preprocessors = [
    "course_utils.grading.plugins.Judged",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]

# --- notebooks as pages: formgrader and feedback --------------------------------------------------

# A student's notebook may hold scripts: they would run as the instructor who looks at it. What is
# set for HTMLExporter holds in both places (course_utils/grading/results/feedback.py).
PAGES = "course_utils.grading.results.feedback"
c.HTMLExporter.preprocessors = [f"{PAGES}.Harmless"]
c.HTMLExporter.sanitize_html = True
c.HTMLExporter.filters = {
    "clean_html": f"{PAGES}.clean",
    "markdown2html": f"{PAGES}.markdown",
    "policy": f"{PAGES}.policy",
}
c.HTMLExporter.template_file = str(Path(course_utils.__file__).parent / "data/harmless.html.j2")

# Feedback shows a failed check without the hidden tests, which nbgrader itself leaves in.
c.GenerateFeedback.preprocessors = [
    "nbgrader.preprocessors.GetGrades",
    f"{PAGES}.SafeFeedback",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]

# Only the page goes to feedback/. This leaves out what else lies in autograded/, where nbgrader
# would copy from, and follow links; nothing else copies from there.
c.CourseDirectory.ignore.append(str(ROOT / "autograded" / "*" / "*" / "*"))

# Nor are settings collected with a student's files: formgrader runs those of any folder that its
# address names (/formgrader?path=FOLDER).
c.CourseDirectory.ignore.extend(["nbgrader_config.*", "jupyter_config.*"])

# --- submissions as files from a learning management system: `nbgrader zip_collect` ---------------

# Student, what the system puts between, what a copy is called ("Copy of 03_lora" in Colab), the
# notebook, and what a browser or a second upload adds: " (1)", "(1)", "-1", "-Copy1".
c.FileNameCollectorPlugin.named_regexp = (
    r".*[/\\](?P<student_id>\w[\w .@'-]*?)_"
    r"(?:(?:\d{3,}|LATE|assignsubmission|file|Copy|of)_)*"
    r"(?:[^/\\_]+[ +])?"
    r"(?P<file_id>\d\d_[a-z][a-z\d_]*?)"
    r"(?: ?\(\d+\)|-(?:Copy)?\d+)?\.ipynb$"
)
# Archives come from strangers; several files of one student must not stop the class.
c.ZipCollectApp.extractor_plugin = "course_utils.grading.intake.archives.SafeExtractor"
c.ZipCollectApp.collector_plugin = "course_utils.grading.intake.archives.SafeCollector"
c.ZipCollectApp.strict = True  # refuse a notebook of another assignment, and say so
