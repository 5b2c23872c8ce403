"""Worlds for placement: made by a seed, read from and written to files, changed by events."""
