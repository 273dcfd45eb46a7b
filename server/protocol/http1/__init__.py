"""HTTP/1.1 as the listener reads it: heads, upgrades and the ends of bodies (RFC 9110, 9112). Sans-I/O."""
