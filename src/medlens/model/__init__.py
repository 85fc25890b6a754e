"""The classifier: backbone, features, head."""
