"""A licence-free world in the official data set formats."""
