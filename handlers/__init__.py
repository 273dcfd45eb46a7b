"""What each operation means, and who may do it; the hub and REST both call these. Knows neither, nor sockets."""
