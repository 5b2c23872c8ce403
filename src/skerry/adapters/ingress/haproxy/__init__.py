"""The ingress on HAProxy: see `ingress` for the way of a change, `config` for the way of a request."""
