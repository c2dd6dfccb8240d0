# tries: a zip archive under the notebook's name, with paths that lead out of the folder
# must: no point; ungradable; says zip
def submission(release):
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../../escaped-zip", "out")
        archive.writestr("/tmp/escaped-zip", "out")
        archive.writestr("09_sums.ipynb", bytes(50_000_000))
    return {"09_sums.ipynb": packed.getvalue(), "more.zip": packed.getvalue()}
