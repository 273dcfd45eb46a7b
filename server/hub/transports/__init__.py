"""The transports of hub connections: WebSocket, Server-Sent Events, long polling, and the way between instances."""
