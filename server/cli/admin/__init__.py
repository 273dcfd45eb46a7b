"""`parley admin`: what administrators do, for an operator who has the configuration and the database."""
