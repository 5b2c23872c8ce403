"""What stories are told with."""

from collections.abc import Awaitable, Callable

from skerry.core.types.ids import VersionId
from skerry.testing.world import World, run_world

CITIES = {"lhr": 3, "cur": 3, "sin": 2}
BAD = "export default { fetch() {} } // bad"

Story = Callable[[World], Awaitable[None]]


def play(story: Story, cities: dict[str, int] | None = None, *, memory_mib: int = 1024) -> None:
    """In a world of its own; every promise is watched all the time, and at the end it has to have converged."""

    async def begin() -> None:
        async with World(cities or CITIES, memory_mib=memory_mib, trace_lines=200) as world:
            await world.settled()
            await story(world)
            await world.converged()

    run_world(begin())


async def ways(world: World, app: str = "hello") -> dict[str, tuple[int, str, VersionId]]:
    """Of a request to each city whose ingress is up: status, the city that answered, the version."""
    found: dict[str, tuple[int, str, VersionId]] = {}
    for site in world.sites:
        if site not in world.lost_sites:
            served = await world.request(site, app)
            found[site] = (served.status, served.site, served.version)
    return found
