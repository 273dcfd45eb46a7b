"""The `parley` command. May import everything; nothing imports it."""
