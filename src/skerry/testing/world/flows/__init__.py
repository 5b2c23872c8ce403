"""A world of hundreds of cities in virtual time, with requests as flows.

What decides is the platform's own code: `core.placement.solve`, `core.packing` inside every site, `core.machines.failure` about
who is silent, `core.machines.rollout` for new versions, `core.placement.order` for where a request goes next. What is simplified
is said in docs/howto/simulate.md: agents and site controllers are planes of a few lines, and control commits to no store.
"""
