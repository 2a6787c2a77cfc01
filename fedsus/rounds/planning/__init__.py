"""From what a run asks to its plans: noise, scale, bits, and what is said before anything runs."""
