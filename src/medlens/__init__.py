"""medlens: from a folder of labelled medical images to a classifier whose numbers can be trusted."""
