"""How an instance is put together, a part at a time. Each module returns a frozen struct of what it has built."""
