"""`make bench`: what the socket path costs, beside a floor in C and Node's `ws` in the same run."""
