"""Wire formats, pure: bytes in, values out. No trio, no clock, nothing else of ours."""
