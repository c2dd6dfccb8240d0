"""Show things in a notebook: predictions, explorers and the answers that they draw."""
