"""For who publishes the course: run notebooks, and make pages, slides and the website of them."""
