"""The slow stages on a Ray cluster, with the functions and the results of one machine."""
