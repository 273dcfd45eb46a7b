"""From a committed change to the connections that must see it, and what is shown without being kept."""
