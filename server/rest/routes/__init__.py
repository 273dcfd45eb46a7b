"""The routes of the REST API, one module per noun. `handlers` has what the operations mean."""
