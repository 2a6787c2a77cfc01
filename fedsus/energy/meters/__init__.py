"""Joules of this machine by phase: counters where they can be read, else a model of processor time."""
