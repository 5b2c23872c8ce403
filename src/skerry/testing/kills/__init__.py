"""Nodes whose agent is killed at every step, on real engines, and what is left of them.

    Kills (the driver)   forks ─▶ life     an agent that does everything once, and dies at its point
                         forks ─▶ recovery the next agent: what it finds goes on, is served, is stopped
                         looks ─▶ traces   what the machine holds now, against what it held before

The driver has a network and mount namespace of its own and is the parent of whatever loses its parent, so that nothing
is overlooked: a process, device, table or mount that is there afterwards is left over, whoever made it.
"""
