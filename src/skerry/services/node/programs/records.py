"""What is on a node's disk of programs (mode 0600: a version holds secrets)."""

from skerry.core.machines.instance import Life
from skerry.core.types.ids import VersionId
from skerry.core.types.program import IsolationClass, Program
from skerry.core.types.slices import NodeInstance
from skerry.kit.record import Record
from skerry.ports.sandbox import SandboxLimits


class Kept(Record):
    """One wanted instance. `address` stays its own until it is stopped. `limits` in place of its version's.

    `snapshot`: what its next process goes on from, in place of a start from its image.
    """

    instance: NodeInstance
    life: Life
    address: str | None = None
    limits: SandboxLimits | None = None
    snapshot: str | None = None

    def program(self) -> Program:
        program = self.instance.version.program
        assert program is not None, "only programs are kept"
        return program


class SnapshotRecord(Record):
    """A snapshot that was finished; one without a record is removed."""

    name: str
    version: VersionId
    isolation: IsolationClass
    engine: str  # name and version: no other can read it
    created_ms: int
