"""Keep and show what came of grading: records, gradebook, report and feedback."""
