"""A machine for programs without processes, mounts or namespaces: what stays when its agent is killed, and the ports over it.

`SimulatedMachine` is what there is; `Agentry` is one agent's hold on it: its ports, which do nothing more once it is killed.
Every effect is a point at which the agent can be killed (`on_point`): before it, or after it and before anybody is told.
"""
