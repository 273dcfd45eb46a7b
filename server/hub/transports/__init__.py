"""What carries a hub connection: WebSocket, Server-Sent Events, long polling, and the way between instances."""
