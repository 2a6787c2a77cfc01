"""Energy and carbon: meters of this machine, the grid it is on, and what their figures come to.

The only place that reads hardware.
"""
