"""Record the runs of the patients in task 7.9, which the notebook draws.

    python -m tests.clinic        writes course_utils/data/clinic.json

The notebook can't compute these runs itself: a script with only one of the five faults would show
how to mend the other four. A patient is a wrong answer in tests/mutants that has one of the faults,
and the right script is the answer of the solution.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from course_utils.machine.files import write_text
from course_utils.machine.threads import one_thread
from course_utils.models import tiny_adapters
from course_utils.models.silence import silence_transformers
from tests import mutation
from workshop.grading import assignments

RECORD = mutation.ROOT / "course_utils" / "data" / "clinic.json"
PATIENTS = {
    "A": "still-alpha",
    "B": "still-unshifted",
    "C": "still-bfloat16",
    "D": "still-early-zero",
    "E": "still-fp4",
}
# The patient who has a second run, in which B is not zero before the first step.
LATER = "C"

Script = Callable[..., dict]
Losses = list[float]


def runs() -> dict[str, dict[str, Losses]]:
    """Return the printed and the true losses of each patient, and those of the right script."""
    with one_thread(), silence_transformers():
        found = {name: run(name, rate=6e-3, steps=20) for name in PATIENTS}
        return found | {f"{LATER}, later": run(LATER, rate=1e-4, steps=100, later=True)}


def run(name: str, rate: float, steps: int, later: bool = False) -> dict[str, Losses]:
    """Return the losses of one patient, and of the right script on the same batch."""
    patient, right = script(PATIENTS[name]), script()
    printed = trained(patient, rate, steps, later)["losses"]
    true = printed
    if PATIENTS[name] == "still-unshifted":
        # This patient's model is right, so the right script computes its true losses.
        true = trained(right, rate, 1, later)["losses"]
        for step in range(1, steps):
            adapters = trained(patient, rate, step, later)["adapters"]
            true += trained(right, rate, 1, adapters=adapters)["losses"]
    series = {
        "printed": printed,
        "true": true,
        "right": trained(right, rate, steps, later)["losses"],
    }
    return {kind: [round(loss, 5) for loss in losses] for kind, losses in series.items()}


def trained(
    train: Script,
    rate: float,
    steps: int,
    later: bool = False,
    adapters: dict[str, torch.Tensor] | None = None,
) -> dict:
    """Train with a script on the batch of all runs, and return what the script returns.

    Args:
        train: The script.
        rate: The learning rate.
        steps: The number of steps.
        later: Whether B is not zero before the first step.
        adapters: The values before the first step, if they are given.
    """
    ids = torch.randint(96, (6, 10), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(10) < 6, -100, ids)
    if adapters is None:
        adapters = tiny_adapters(0, rank=8, trained=later)
    return train(0, 8, 16, adapters, ids, labels, rate, steps)


def script(mutant: str = "") -> Script:
    """Return the function `train` of a wrong answer; default: of the solution."""
    assignment = assignments.read(assignments.sources(mutation.ROOT, "07")[0])
    answers = {m.name: m.source for m in mutation.mutants(assignment.name, "clinic")}
    answers[""] = next(task.answer["source"] for task in assignment.tasks if task.id == "clinic")
    namespace: dict = {}
    exec(next(cell["source"] for cell in assignment.cells if cell["id"] == "imports"), namespace)
    exec(answers[mutant], namespace)
    return namespace["train"]


if __name__ == "__main__":
    write_text(RECORD, json.dumps(runs()) + "\n")
