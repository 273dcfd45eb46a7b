"""The history checker: is what the clients of a run saw one history of each conversation?

It knows nothing of the server and shares no code with the oracle: its only input is a record (docs/load-testing.md),
and it needs nothing but the standard library and msgspec.
"""
