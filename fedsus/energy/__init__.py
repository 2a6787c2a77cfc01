"""Energy and carbon: meters of this machine, intensity of its grid. The only place that reads hardware."""
