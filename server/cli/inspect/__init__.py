"""`parley inspect` and `parley drain`: the operator's side of the admin socket."""
