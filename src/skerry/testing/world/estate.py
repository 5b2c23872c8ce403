"""All planes of a world, by name, and those who watch them."""

from collections.abc import Mapping

from skerry.adapters.link.simulated import ControlSide, SiteSide
from skerry.testing.world.acknowledged import Acknowledged
from skerry.testing.world.checks import Checks
from skerry.testing.world.copies import Copies
from skerry.testing.world.ground import Ground
from skerry.testing.world.network import Network
from skerry.testing.world.planes import SimControl, SimNode, SimSite


class Estate(Ground):
    def __init__(self, plan: Mapping[str, int], *, seed: int, trace_lines: int) -> None:
        super().__init__(plan, seed=seed, trace_lines=trace_lines)
        self.network = Network(self)
        self.checks = Checks(self)
        self.acknowledged = Acknowledged()
        self.copies = Copies(self, self.network)
        self.controls: list[SimControl] = []
        self.sites: dict[str, SimSite] = {}
        self.nodes: dict[str, SimNode] = {}

    @property
    def control(self) -> SimControl:
        return self.controls[0]

    def control_sides(self) -> list[ControlSide]:
        """Of the controls that live."""
        return [control.side for control in self.controls if control.alive]

    def site_side(self, site: str) -> SiteSide | None:
        held = self.sites[site]
        return held.side if held.alive else None
