"""`loadtest rehearsal`: one full process, then several smaller ones, and how far off the model of `capacity` is."""
