"""The admin interface of an instance: its listener, what it shows to operators, and what they can do with it."""
