"""What an update gives away: attacks on what a server sees, in clear, under a secure sum and with noise.

``python -m fedsus_simulations.demo.attacks`` runs them all and writes docs/what-an-update-gives-away.md's figures.
"""
