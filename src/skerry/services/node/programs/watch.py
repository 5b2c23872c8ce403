"""Looking at what programs use, which of their limits they come to, and ending those that nobody asks anything of.

Traffic is counted where connections are taken; health checks go another way and do not count.
"""

from dataclasses import dataclass

from skerry.ports.network import Traffic
from skerry.services.node.programs.instance import ProgramInstance
from skerry.services.node.programs.settings import Ground

BUSY_PERCENT = 1  # of one CPU between two looks: a program at rest uses less
WORKING_PERCENT = 5  # a Worker behind gVisor's wall answers its health check with less


@dataclass
class _Seen:
    counted: int
    cpu_us: int
    active_ms: int  # when its traffic last grew
    worked_ms: int  # when it last had traffic, or used the CPU for more than its health checks
    squeezed_ms: int = 0
    awake: bool = True


class Watch:
    """`look` as often as its settings say."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._seen: dict[str, _Seen] = {}

    def look(self, instances: tuple[ProgramInstance, ...]) -> None:
        lost = self._ground.files.trim_logs(bytes_max=self._ground.settings.log_bytes_max)
        self._seen = {one.id: self._seen[one.id] for one in instances if one.id in self._seen}
        for instance in instances:
            instance.look(log_lost=instance.id in lost)
            if instance.life.state not in ("running", "asleep"):
                self._seen.pop(instance.id, None)
                continue
            seen = self._update(instance)
            if seen.awake:
                instance.saw_activity()
            self._rest(instance, seen)

    def _update(self, instance: ProgramInstance) -> _Seen:
        """What it did since the last look."""
        ground, now_ms = self._ground, self._ground.clock.monotonic_ms()
        traffic, cpu_us = ground.network.traffic(instance.id), instance.stats.cpu_us
        seen = self._seen.setdefault(instance.id, _Seen(0, cpu_us, now_ms, now_ms))
        served = bool(traffic.connections) or seen.counted != _counted(traffic)
        percent = (cpu_us - seen.cpu_us) / (ground.settings.look_every_ms * 10)
        seen.awake = served or percent > BUSY_PERCENT
        seen.active_ms = now_ms if served else seen.active_ms
        seen.worked_ms = now_ms if served or percent > WORKING_PERCENT else seen.worked_ms
        seen.counted, seen.cpu_us = _counted(traffic), cpu_us
        return seen

    def _rest(self, instance: ProgramInstance, seen: _Seen) -> None:
        self._sleep(instance, seen)
        program = instance.kept.program()
        if program.asleep_after_s is None or program.port is None:
            return
        idle_ms = self._ground.clock.monotonic_ms() - max(seen.active_ms, instance.ready_at_ms)
        if idle_ms >= program.asleep_after_s * 1000:
            instance.drop(f"no traffic for {program.asleep_after_s} s")

    def _sleep(self, instance: ProgramInstance, seen: _Seen) -> None:
        """Workers. Other programs are squeezed when memory is short."""
        after_ms = self._ground.walled.sleeps_after_ms(instance.kept.instance.version)
        if after_ms is None or not instance.can_squeeze:
            return
        now_ms, worked_ms = self._ground.clock.monotonic_ms(), max(seen.worked_ms, instance.ready_at_ms)
        if seen.squeezed_ms <= worked_ms <= now_ms - after_ms:
            seen.squeezed_ms = now_ms
            instance.fall_asleep()


def _counted(traffic: Traffic) -> int:
    """What grows with every request. Bytes, where accepted connections are not counted: a health check then counts too."""
    return traffic.received_bytes if traffic.accepted is None else traffic.accepted
