"""Release assignments with nbgrader, check their rules, and grade submissions."""
