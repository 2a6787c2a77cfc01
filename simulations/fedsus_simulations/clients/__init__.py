"""Who the simulated clients are: their data, their owners, how their devices behave."""
