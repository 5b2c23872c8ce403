"""`skerry world` and `skerry place`: worlds as files, and plans for them."""
