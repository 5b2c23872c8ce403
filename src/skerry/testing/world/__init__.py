"""A simulated world: the real services of every plane, on simulated engines, in virtual time.

async def story() -> None:
    async with World({"lhr": 3, "cur": 3}) as world:
        await world.deploy("hello")
        await world.settled()
        world.nodes["lhr-1"].kill()
        …

run_world(story())
"""

from skerry.testing.world.load import Load, Served
from skerry.testing.world.planes import ControlGone
from skerry.testing.world.world import World, run_world

__all__ = ["ControlGone", "Load", "Served", "World", "run_world"]
