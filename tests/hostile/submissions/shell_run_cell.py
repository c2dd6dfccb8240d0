# tries: run_cell of the shell replaced by one that always succeeds
# must: no point; graded or needs a person
# %% cell after setup
from IPython.core.interactiveshell import ExecutionResult

shell = get_ipython()
kind = type(shell)


def run_cell(self, *args, **kwargs):
    return ExecutionResult(None)


async def run_cell_async(self, *args, **kwargs):
    return ExecutionResult(None)


kind.run_cell = run_cell
kind.run_cell_async = run_cell_async
