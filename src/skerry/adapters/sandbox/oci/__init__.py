"""Containers by an OCI runtime (crun, runc, or gVisor's runsc), run directly and held by records of our own.

    start ─ bundle, secrets (memory only) ─ log (bounded) ─ groups ─▶ gate ─▶ `runtime run` ─▶ the program
            /run/skerry/<tag>/memory/<id>   …/log/<id>     skerry-<tag>/<id>    skerry-<tag>/<id>.m  …/<id>/c

The runtime stays as the program's parent: it knows the exit code. It and all that it forks are born in a group of their own
(`.m`); the program's processes go to a group of the runtime's making (`c`) within ours, which has the limits and stays when
the runtime removes its own. To end a sandbox is to end both groups. All names derive from the data directory and the
sandbox's id, so what a killed agent leaves is found without a record.
"""
