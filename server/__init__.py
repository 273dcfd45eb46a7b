"""The server: what serves, in layers. CONTRIBUTING.md says what each folder owns and may import."""
