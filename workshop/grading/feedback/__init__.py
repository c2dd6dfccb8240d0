"""Store and show the results of grading: records, gradebook, class report and feedback."""
