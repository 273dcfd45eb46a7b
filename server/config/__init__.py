"""What operators configure: settings, limits, addresses, and what of it may change in a running process."""
