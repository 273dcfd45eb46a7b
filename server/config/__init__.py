"""The configuration by operators: settings, limits, addresses, and their reload in a running process."""
