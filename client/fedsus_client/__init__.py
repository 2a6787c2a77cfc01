"""The device agent of fedsus."""

__version__ = "0.1.0"
