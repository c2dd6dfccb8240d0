"""Publish the course: run notebooks, check them, and make pages, slides and the website."""
