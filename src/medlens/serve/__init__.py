"""The classifier at work: predictions, explanations, a server."""
