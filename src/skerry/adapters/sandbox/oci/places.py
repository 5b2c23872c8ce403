"""Where the containers of one node have their things. Nothing outlives a reboot, as no container does."""

from pathlib import Path

from skerry.kit.hashing import stable_id

RUN = Path("/run/skerry")


class Places:
    """`run` can be passed by everybody, since mapped users look paths up in it; what is in it cannot be listed."""

    def __init__(self, data: Path, name: str, run: Path | None = None) -> None:
        self.tag = stable_id("sandboxes", name, str(data.resolve()))
        self.run = run or RUN / self.tag
        self.processes = self.run / "processes"  # records
        self.memory = self.run / "memory"  # a tmpfs: bundles, secrets
        self.logs = self.run / "log"  # one small tmpfs each: a flood ends there
        self.sys = self.run / "sys"  # /sys of each network namespace
        self.state = self.run / "state"  # the runtime's own

    def bundle(self, sandbox: str) -> Path:
        return self.memory / sandbox

    def log(self, sandbox: str) -> Path:
        return self.logs / sandbox

    def system(self, sandbox: str) -> Path:
        return self.sys / sandbox

    def names(self) -> frozenset[str]:
        """Every id that has left a trace here."""
        records = [path.stem for path in self.processes.glob("*.json")]
        return frozenset([*records, *(path.name for place in (self.memory, self.logs, self.sys) for path in place.glob("*"))])
