"""Test that the runs which task 7.9 draws are what its scripts give."""

import json

import pytest

from tests import clinic, mutation, tables
from workshop.grading import assignments

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def runs():
    return clinic.runs()


@pytest.mark.slow
def test_the_recorded_runs_can_be_measured_again(runs):
    recorded = json.loads(clinic.RECORD.read_text(encoding="utf-8"))
    assert recorded.keys() == runs.keys()
    for name, run in runs.items():
        for kind, losses in run.items():
            # Small differences between processors grow from step to step.
            assert recorded[name][kind] == pytest.approx(losses, rel=0.02), (name, kind)


def test_each_patient_has_another_fault_and_the_solution_names_it(runs):
    diagnose = solved()["diagnose"]
    names = {mutant: diagnose(**runs[name]) for name, mutant in clinic.PATIENTS.items()}
    assert names == {
        "still-alpha": "scale",
        "still-unshifted": "loss",
        "still-bfloat16": "precision",
        "still-early-zero": "update",
        "still-fp4": "base",
    }


def test_the_script_of_the_notebook_has_all_five_faults():
    namespace = solved()
    cells = assignments.read(assignments.sources(mutation.ROOT, "07")[0]).cells
    exec(next(cell["source"] for cell in cells if cell["id"] == "clinic-script"), namespace)
    scripts = namespace["faulty_train"], clinic.script("unmended")
    losses = [clinic.trained(train, rate=6e-3, steps=3, later=True)["losses"] for train in scripts]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def solved():
    return tables.solved(assignments.read(assignments.sources(mutation.ROOT, "07")[0]))
