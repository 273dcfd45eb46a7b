"""The SignalR hub protocol: messages, their two encodings, the handshake, stateful reconnect. Sans-I/O."""
