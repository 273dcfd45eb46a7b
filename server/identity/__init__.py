"""Who is calling: access tokens, connection tokens, keys, and signing in with a provider."""
