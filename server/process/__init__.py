"""The process: signals, the service manager, and the supervisor of its parts."""
