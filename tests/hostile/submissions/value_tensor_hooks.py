# tries: tensors that require gradients and have hooks, which would run where they are used
# must: at most 1 point; graded
# assignment: 08_tensors
# %% answer tensors-scale
import pathlib


def hook(gradient):
    pathlib.Path("/tmp/escaped-hook").write_text("a hook ran\n")
    return gradient


def scale_rows(x):
    weight = torch.nn.Parameter(torch.zeros_like(x))
    weight.register_hook(hook)
    came = weight * 1
    came.register_hook(hook)
    return came
