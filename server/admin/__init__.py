"""What operators see and do: the admin listener of an instance, and the commands that talk to it."""
