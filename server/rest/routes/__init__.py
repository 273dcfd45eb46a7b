"""The routes of the REST API, one module per noun. `handlers` implements the operations."""
