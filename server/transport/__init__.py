"""Sockets: listening, request heads, TLS, WebSockets, timers, and what waits to be sent."""
