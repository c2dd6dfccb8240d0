# tries: 20,000 cells
# must: no point; ungradable or graded
def submission(release):
    from tests.hostile import corpus

    cell = {
        "cell_type": "code",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "source": "1",
    }
    release["cells"] += [cell | {"id": f"own-{number}"} for number in range(20_000)]
    return {"09_sums.ipynb": corpus.dump(release)}
