"""Amounts of what a node has. Integers only, so that sums are exact."""

from skerry.kit.record import Record


class Resources(Record):
    """cpu in thousandths of a core, memory and disk in MiB. Never negative."""

    cpu_millicores: int = 0
    memory_mib: int = 0
    disk_mib: int = 0

    def __post_init__(self) -> None:
        if self.cpu_millicores < 0 or self.memory_mib < 0 or self.disk_mib < 0:
            raise ValueError(f"resources are never negative: {self}")

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            cpu_millicores=self.cpu_millicores + other.cpu_millicores,
            memory_mib=self.memory_mib + other.memory_mib,
            disk_mib=self.disk_mib + other.disk_mib,
        )

    def times(self, count: int) -> "Resources":
        return Resources(
            cpu_millicores=self.cpu_millicores * count,
            memory_mib=self.memory_mib * count,
            disk_mib=self.disk_mib * count,
        )

    def fits_in(self, room: "Resources") -> bool:
        return (
            self.cpu_millicores <= room.cpu_millicores and self.memory_mib <= room.memory_mib and self.disk_mib <= room.disk_mib
        )

    def percent(self, *, cpu: int, memory: int) -> "Resources":
        """So much of the processors and of the memory, at least one of each; disk as it is."""
        return Resources(
            cpu_millicores=max(1, self.cpu_millicores * cpu // 100),
            memory_mib=max(1, self.memory_mib * memory // 100),
            disk_mib=self.disk_mib,
        )

    def or_more(self, other: "Resources") -> "Resources":
        """What covers either of both."""
        return Resources(
            cpu_millicores=max(self.cpu_millicores, other.cpu_millicores),
            memory_mib=max(self.memory_mib, other.memory_mib),
            disk_mib=max(self.disk_mib, other.disk_mib),
        )

    def or_less(self, other: "Resources") -> "Resources":
        """What both cover."""
        return Resources(
            cpu_millicores=min(self.cpu_millicores, other.cpu_millicores),
            memory_mib=min(self.memory_mib, other.memory_mib),
            disk_mib=min(self.disk_mib, other.disk_mib),
        )

    def less(self, used: "Resources") -> "Resources":
        """What is left, never below zero (a node can shrink below what runs on it)."""
        return Resources(
            cpu_millicores=max(0, self.cpu_millicores - used.cpu_millicores),
            memory_mib=max(0, self.memory_mib - used.memory_mib),
            disk_mib=max(0, self.disk_mib - used.disk_mib),
        )
