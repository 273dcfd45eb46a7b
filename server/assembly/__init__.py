"""Assembles an instance. Each module builds one group of parts and returns them as a frozen struct."""
