"""Snapshots of a node: each a directory that an engine filled, and a record that says for which engine. The record is last."""

from skerry.ports.recordfile import RecordFolder
from skerry.ports.runtime import NoSuchInstance, Unsupported
from skerry.ports.sandbox import EngineFacts, Sandbox
from skerry.services.node.programs.records import Kept, SnapshotRecord
from skerry.services.node.programs.settings import Ground


class Snapshots:
    def __init__(self, ground: Ground, records: RecordFolder[SnapshotRecord]) -> None:
        self._ground = ground
        self._records = records
        self._held: dict[str, SnapshotRecord] = {}

    def attach(self) -> frozenset[str]:
        """The names of those that are whole."""
        self._held = self._records.load_all()
        return frozenset(self._held)

    async def make(self, kept: Kept, sandbox: Sandbox, facts: EngineFacts) -> str:
        """Raises the sandbox's errors; then nothing is left of it."""
        now_ms = self._ground.clock.now_ms()
        name = next(name for n in range(len(self._held) + 1) if (name := f"{kept.instance.id}-{now_ms + n}") not in self._held)
        directory = self._ground.files.make_snapshot(name)
        version = kept.instance.version
        record = SnapshotRecord(
            name=name, version=version.id, isolation=version.isolation, engine=_engine(facts), created_ms=now_ms
        )
        self._held[name] = record  # the name is taken
        try:
            await sandbox.snapshot(directory)
            self._records.save(name, record)
        except BaseException:
            self.forget(name)
            raise
        return name

    def check(self, name: str, kept: Kept, facts: EngineFacts) -> None:
        """Raises when `kept` cannot go on from it."""
        record, version = self._held.get(name), kept.instance.version
        if record is None:
            raise NoSuchInstance(f"there is no snapshot {name} on this node")
        if record.version != version.id:
            raise Unsupported(f"snapshot {name} is of version {record.version}, not of {version.id}")
        if record.engine != _engine(facts):
            raise Unsupported(f"snapshot {name} was made by {record.engine}; here is {_engine(facts)}, which cannot read it")

    def forget(self, name: str) -> None:
        """Idempotent."""
        self._held.pop(name, None)
        self._records.remove(name)
        self._ground.files.remove_snapshot(name)


def _engine(facts: EngineFacts) -> str:
    return f"{facts.name} {facts.version}"
