"""The oracle: it gets what clients received and finds what breaks a promise."""
