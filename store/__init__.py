"""What outlives a process: PostgreSQL, Redis, objects, names of users. `model` has what all of them speak of."""
