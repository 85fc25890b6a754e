"""A trained run at work: predict, explain, export, serve."""
