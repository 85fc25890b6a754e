"""What a trained classifier is for: new images, other programs, the network."""
