# tries: a folder without a notebook
# must: no point; ungradable
def submission(release):
    return {"answers.docx": b"PK\x03\x04 my answers"}
