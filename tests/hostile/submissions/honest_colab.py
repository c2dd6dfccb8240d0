# tries: nothing: Colab has replaced ids and metadata
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] = {
            "id": f"aBcD{number:08}",
            "colab": {"base_uri": "https://localhost:8080/"},
        }
        cell["source"] = cell["source"].splitlines(keepends=True)
        del cell["id"]
    notebook |= {"nbformat_minor": 0}
    notebook["metadata"] = {
        "colab": {"provenance": [], "name": "Copy of 09_sums.ipynb"},
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
    }
    return {"09_sums.ipynb": corpus.dump(notebook)}
