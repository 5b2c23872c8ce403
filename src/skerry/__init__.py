"""Skerry: an edge application platform that a team runs on its own servers."""

__version__ = "0.1.0"
