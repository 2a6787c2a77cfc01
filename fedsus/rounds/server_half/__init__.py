"""What the server does: gather a cohort, conduct the exchange, release, note; it runs no user code."""
