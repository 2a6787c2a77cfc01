"""Secure aggregation: the server learns the sum of the cohort's vectors and nothing else about one of them."""
