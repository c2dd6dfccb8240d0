"""Run what a stranger has written, so that it reaches neither this machine nor another process."""
