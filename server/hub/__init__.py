"""The hub: `methods` has what clients call, `connection` is one client, `server` all; `transports` carry them."""
