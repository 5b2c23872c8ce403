"""An independent checker of plans; see `__main__`."""
