"""Audits: what mechanisms are seen to give away, beside what they claim; behind `fedsus privacy audit`, and as tests.

The mechanisms are the real ones, from the update to what is released; only the dimension and the number of clients are
small, see `small`. `broken` has mechanisms that an audit must find.
"""
