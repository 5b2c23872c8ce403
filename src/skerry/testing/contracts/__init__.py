"""One suite per port, run on every adapter: subclass it and give it a `harness` fixture."""
