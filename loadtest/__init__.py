"""Load tests: virtual users drive a server from outside, an oracle judges every promise, a report has what they saw."""
