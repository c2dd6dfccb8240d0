# tries: a folder that is a link to another student's
# must: no point; ungradable; says link
def submission(release):
    from tests.hostile.corpus import Link

    return {".": Link("../student01/09_sums")}
