# tries: the notebook's metadata set nbconvert, Jupyter, and the withheld modules of the course
# must: no point; graded
# assignment: 08_tensors
def submission(release):
    from tests.hostile import corpus

    release["metadata"] |= {
        "qlora_course": {"withheld": [], "points": 100, "timeout": 1e9},
        "kernelspec": {
            "name": "python3",
            "display_name": "x",
            "argv": ["touch", "/tmp/escaped-argv"],
        },
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}},
        "celltoolbar": "Create Assignment",
        "nbgrader": {"points": 100},
    }
    corpus.fill(release, "tensors-rank", LIST)
    return {"08_tensors.ipynb": corpus.dump(release)}


LIST = """\
def rank_even(d_in, d_out):
    import course_utils.lora as lora
    return lora.break_even_rank(d_in, d_out)
"""
