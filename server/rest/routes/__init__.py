"""One module per noun: its routes, and nothing of what they mean."""
