"""Images in: from files on disk to a split table."""
