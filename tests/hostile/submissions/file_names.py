# tries: files with odd names beside the notebook: breaks, codes, options, bytes that aren't UTF-8
# must: no point; graded or needs a person or ungradable
def submission(release):
    import os

    from tests.hostile import corpus

    names = ["-rf", "a\nb", "$(touch escaped-name)", "; touch escaped-name", "\x1b[2J", "'\"", "~"]
    names += [
        "x" * 255,
        "<script>hostile-script()<",
        os.fsdecode(b"\xff\xfe"),
        "\u202etxt.exe",
        "*",
    ]
    return {"09_sums.ipynb": corpus.dump(release)} | {name: b"odd" for name in names}
