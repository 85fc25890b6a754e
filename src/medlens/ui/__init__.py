"""`medlens ui`: the whole road on a local page, without code."""
