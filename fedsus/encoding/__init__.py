"""From an update to integers mod 2**bits, and from their sum to a mean."""
