"""Redis or Valkey: one client kept connected, and what instances keep and exchange there."""
