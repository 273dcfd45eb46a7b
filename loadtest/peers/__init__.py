"""The same durable work on Parley and on small servers written for comparison with other libraries."""
