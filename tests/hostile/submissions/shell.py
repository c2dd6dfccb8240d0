"""IPython and the kernel."""
# must: no point; graded

# === shell_ast
# tries: an AST transformer that takes every check and assert out of the cells that run
# %% cell after setup
import ast


class Strip(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.copy_location(ast.Pass(), node)

    visit_Expr = visit_Assert


get_ipython().ast_transformers.append(Strip())

# === shell_displayhook
# tries: a displayhook and a publisher of displays that forge what a cell puts out
# %% cell after setup
shell = get_ipython()


class Hook:
    exec_result = None

    def __call__(self, value=None):
        shell.display_pub.publish({"text/plain": "3"})


shell.displayhook = sys.displayhook = Hook()
shell.display_pub.publish = lambda *args, **kwargs: None
# %% add(numbers)
return 0

# === shell_do_execute
# tries: do_execute of the Jupyter kernel replaced by one that says ok
# %% cell after setup
kernel = getattr(get_ipython(), "kernel", None)


async def do_execute(*args, **kwargs):
    return {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}


if kernel:
    kernel.do_execute = do_execute


# === shell_events
# tries: what IPython calls before and after each cell puts its own checks in place
# %% cell after setup
def forge(*args):
    from course_utils.exercise import checks

    for name in ("gives", "like", "raises", "that"):
        setattr(checks.Check, name, lambda self, *args, **kwargs: None)


for event in ("pre_run_cell", "pre_execute", "post_execute", "post_run_cell"):
    get_ipython().events.register(event, forge)

# === shell_exceptions
# tries: a handler of IPython that swallows exceptions, and a traceback that isn't shown
# %% cell after setup
shell = get_ipython()
shell.set_custom_exc((Exception,), lambda self, *args, **kwargs: None)
shell.showtraceback = shell._showtraceback = lambda *args, **kwargs: None
shell.showsyntaxerror = lambda *args, **kwargs: None
type(shell)._showtraceback = type(shell).showtraceback = lambda *args, **kwargs: None


# === shell_input
# tries: an input transformer that empties the cells of the tests
# %% cell after setup
def empty(lines):
    return ["pass\n"] if "check" in "".join(lines) else lines


get_ipython().input_transformers_cleanup.insert(0, empty)
get_ipython().input_transformers_post.append(empty)

# === shell_messages
# tries: the messages of the Jupyter kernel rewritten: an error becomes nothing
# %% cell after setup
kernel = getattr(get_ipython(), "kernel", None)
if kernel:
    session = kernel.session
    real = session.send

    def send(stream, message, content=None, *args, **kwargs):
        if message == "error":
            return None
        if isinstance(content, dict) and content.get("status") == "error":
            content = {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}
        return real(stream, message, content, *args, **kwargs)

    session.send = send

# === shell_reset
# tries: the namespace, the shell's instance and the main module replaced in the middle
# must: no point; graded or needs a person
# %% cell after setup
from IPython.core.interactiveshell import InteractiveShell

shell = get_ipython()
# %% add(numbers)
sys.modules["__main__"] = types.ModuleType("__main__")
InteractiveShell.clear_instance()
shell.user_ns.clear()
shell.user_global_ns.clear()
return 0

# === shell_run_cell
# tries: run_cell of the shell replaced by one that always succeeds
# must: no point; graded or needs a person
# %% cell after setup
from IPython.core.interactiveshell import ExecutionResult


async def run_cell_async(*args, **kwargs):
    return ExecutionResult(None)


kind = type(get_ipython())
kind.run_cell = lambda *args, **kwargs: ExecutionResult(None)
kind.run_cell_async = run_cell_async

# === shell_traceback_rendered
# tries: CheckFailed shows itself as nothing, and its traceback renders as a number of points
# %% cell after setup
checks.CheckFailed._render_traceback_ = lambda self: []
checks.CheckFailed.__str__ = lambda self: "1"
