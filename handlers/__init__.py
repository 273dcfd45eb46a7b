"""What each operation means, and who may do it; called by the hub and REST. Knows neither of them, and no sockets."""
