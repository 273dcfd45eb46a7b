"""Two versions, each measured in one or several runs: what differs, how surely, and whether that is a regression."""
