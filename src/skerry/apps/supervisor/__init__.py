"""`skerry up`: every plane as a process of its own on one machine, and one supervisor over them.

    options ─► layout ─► lock ─► leftovers ─► ports ─► planes (control, sites, nodes) ─► example ─► screen ─► stop ─► verify

One file per reason: `cities` what may be asked for, `layout` who gets which directory, address and share, `lock` one
supervisor per data directory, `ports` whether the addresses are free, `leftovers` what a killed run left, `planes`
starting and restarting, `orphans` reaping what planes leave behind, `example` the first deployment, `screen` what
is shown, `run` the whole in order, `detach` and `down` for a supervisor in the background.
"""
