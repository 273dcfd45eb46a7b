"""One module per revision; the SQL is in the file of the same name."""
