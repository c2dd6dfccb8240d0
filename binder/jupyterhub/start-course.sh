#!/bin/bash
# The image's start script runs this file before it starts a user's server. It copies the lectures
# and exercises to the user's home folder, and changes no file that is already there.
course start "$HOME/qlora-course" || echo "The lectures and exercises could not be copied." >&2
