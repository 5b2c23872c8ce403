"""`skerry sim`: plan, rehearse and distrust a platform in virtual time."""
