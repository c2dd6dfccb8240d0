"""nbgrader's settings: the root of this repository is an nbgrader course.

JupyterLab's nbgrader extensions and the commands `nbgrader …` read this file if they are started in
this folder. In another folder, use `nbgrader … --course-dir FOLDER`. The folder of the fetched
assignments has its own configuration, `my_assignments/nbgrader_config.py`, which loads this file.
"""

import contextlib
import os
import shutil
import sysconfig
from pathlib import Path

import workshop
from workshop.grading.sandbox.bubblewrap import SYSTEM

c = get_config()  # noqa: F821 (traitlets adds get_config to this file's namespace)

ROOT = Path(__file__).resolve().parent

# --- the course ----------------------------------------------------------------------------------

# The name of this course's folder in the exchange.
c.CourseDirectory.course_id = "qlora"
# Without this setting, the root would be the folder in which nbgrader was started.
c.CourseDirectory.root = str(ROOT)
# The solutions are written by hand.
c.CourseDirectory.source_directory = "solutions"
# The exercises, which students get, are generated from the solutions.
c.CourseDirectory.release_directory = "exercises"

# nbgrader creates its database with the program alembic, which it finds by PATH. The variable
# PATH doesn't contain .venv's programs if the command was `make lab` or `.venv/bin/nbgrader`.
if not shutil.which("alembic"):
    os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")

# --- the exchange: where assignments are released, submitted and handed back ----------------------

# nbgrader's own default is writable only for an administrator. A class on one machine should set
# QLORA_COURSE_EXCHANGE to a folder that everybody can access. The default below is only suitable
# for one person who tries the course.
exchange = ROOT / (os.environ.get("QLORA_COURSE_EXCHANGE") or "exchange")

# formgrader and the Assignment List don't work without the exchange's folder, and in nbgrader only
# the command `release_assignment` creates the folder. Therefore the folder is created here.
# Everybody may write to the folder, as nbgrader requires. The sticky bit, as for /tmp, prevents
# people from removing each other's files. If the folder exists already or can't be created,
# nothing is done here, and nbgrader reports the problem when the exchange is used.
with contextlib.suppress(OSError):
    exchange.mkdir(parents=True)
    exchange.chmod(0o1777)

c.Exchange.root = str(exchange)
# The folder for fetched assignments; without this setting, they would be put into the root.
c.Exchange.assignment_dir = str(ROOT / "my_assignments")

# Students can write to the exchange, so no link in it is followed. formgrader's button *Collect*
# also uses this class.
c.ExchangeFactory.collect = "workshop.grading.collect.exchange.SafeCollect"

# --- running a notebook: the button "Validate", and autograding -----------------------------------

# Maximum time of one cell in seconds if a student presses *Validate*. nbgrader's default of 30 s is
# too short to import PyTorch on a busy machine.
c.Execute.timeout = 60
# Kernels log only critical errors. Otherwise they would log a warning at each start.
c.Execute.extra_arguments = ["--IPKernelApp.log_level=CRITICAL"]

# By default, nbgrader reads and runs students' notebooks in its own process. With this exporter,
# `nbgrader autograde` and formgrader's button grade in the sandbox, as `course grade` does.
c.Autograde.exporter_class = "workshop.grading.plugins.Grade"

# --- the sandbox: what a submission can read on this machine --------------------------------------

# By default, a submission can read /usr and some folders of /etc, which contain programs, libraries
# and fonts. It can always read Python's own folder. The class's course, exchange and gradebook are
# hidden even if they are inside a readable folder, but all other files in a readable folder can be
# read. If /usr contains other people's files on your machine, list fewer folders, for example:
# ["/usr/bin", "/usr/lib", "/usr/lib64", "/usr/share/fonts", "/bin", "/lib", "/lib64"]
c.Sandbox.read_only = list(SYSTEM)

# --- notebooks as pages: formgrader and feedback --------------------------------------------------

# A student's notebook may contain scripts, which would run with the rights of an instructor who
# opens the notebook's page. The settings of HTMLExporter apply to formgrader and to feedback
# (workshop/grading/feedback/harmless.py).
PAGES = "workshop.grading.feedback"
c.HTMLExporter.preprocessors = [f"{PAGES}.harmless.Harmless"]
c.HTMLExporter.filters = {"markdown2html": f"{PAGES}.harmless.markdown"}
c.HTMLExporter.template_file = str(
    Path(workshop.__file__).parent / "grading/feedback/harmless.html.j2"
)

# Feedback shows the tasks without the hidden tests, which nbgrader's own feedback would show.
c.GenerateFeedback.preprocessors = [
    f"{PAGES}.tasks.GetGrades",
    f"{PAGES}.tasks.TaskResults",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]

# Only the graded notebook of a submission is written to autograded/. Without this setting, nbgrader
# would also copy all other files of the submission, and follow links.
for names in ("*", ".*"):
    c.CourseDirectory.ignore.append(str(ROOT / "submitted" / "*" / "*" / names))

# Settings files among a student's files are not copied either, because formgrader executes the
# settings in any folder that the page's address names (/formgrader?path=FOLDER).
c.CourseDirectory.ignore.extend(["nbgrader_config.*", "jupyter_config.*"])
# Ignore the files that macOS adds to folders.
c.CourseDirectory.ignore.extend(["._*", ".DS_Store"])

# --- submissions as files from a learning management system: `nbgrader zip_collect` ---------------

# Archives are untrusted, so the course unpacks them itself, and decides to which student each file
# belongs.
c.ZipCollectApp.extractor_plugin = "workshop.grading.collect.archives.Archives"
c.ZipCollectApp.collector_plugin = "workshop.grading.collect.archives.ByStudent"
# Each run unpacks everything again, and replaces what an earlier run has collected.
c.ZipCollectApp.force = True
