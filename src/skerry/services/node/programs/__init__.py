"""Programs of any kind on a node, behind the runtime port: what is the same whichever wall stands around them.

    start ──► record ──► network, published ──► address         once for an instance, until `stop`
                 │
                 └► image ► mount ► sandbox ► health ► open     for each process; undone backwards when it ends
                        life (core.machines.instance) decides when; `watch` looks at traffic and use

Engines, images, network, files and checks are ports; nothing here does I/O of its own.
"""
