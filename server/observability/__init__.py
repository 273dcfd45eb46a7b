"""The observation of a process: its log, the redaction of it, liveness, and event-loop lag."""
