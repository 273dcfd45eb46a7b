"""REST: `app` puts it together, `routes` has a module for each noun; what an operation means is in `handlers`."""
