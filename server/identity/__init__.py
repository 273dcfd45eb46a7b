"""Authentication: access tokens, connection tokens, keys, and sign-in with a provider."""
