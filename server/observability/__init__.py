"""What a process says of its own state: the log, what must not stand in it, and how promptly it works."""
