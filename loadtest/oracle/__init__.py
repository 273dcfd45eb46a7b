"""The oracle: what clients may see, and what they may not. Told what came, it finds what breaks a promise."""
