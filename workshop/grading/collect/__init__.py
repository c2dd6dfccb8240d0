"""Receive submissions: unpack archives, read the students' folders and repair notebooks."""
