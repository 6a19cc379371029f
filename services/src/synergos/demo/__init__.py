"""A whole federated cycle over REST on one example data set, and the same model trained without federation."""
