"""The scenario: its file, its overrides, those that ship."""
