"""Control groups: limits on what an instance uses, and the way to end all of its processes at once."""
