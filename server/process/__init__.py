"""The process and its surroundings: signals, the service manager, and the parts that are kept running."""
