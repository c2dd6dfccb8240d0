"""Check answers in an exercise, and describe their values."""
