"""Carbon intensity of this machine's grid: sources, forecasts, and rounds that wait for cleaner hours."""
