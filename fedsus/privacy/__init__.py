"""Noise, accounting and calibration of differential privacy. No input or output, no torch."""
