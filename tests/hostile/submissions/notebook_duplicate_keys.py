# tries: JSON whose keys are there twice: one reader sees the first, another the last
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    text = corpus.dump(release)
    return {"09_sums.ipynb": text.rstrip()[:-1] + b', "cells": [], "nbformat": 4}'}
