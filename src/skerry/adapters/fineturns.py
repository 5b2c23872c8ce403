"""When a turn on the CPU ends: at the kernel's next tick (4 ms on most machines), or when it is over (the kernel's HRTICK).

Since Linux 6.6 whoever wakes up beside several who yield may have to wait for turns that the kernel owes them
(docs/decisions/0016), 0.7 to 3 ms each instead of a tick. A switch of the whole machine: root finds it in debugfs, and whoever
set it sets it back. The record is written first, so that what a killed owner set is set back by the next one.
"""

from pathlib import Path

from skerry.adapters.files import replace_durably
from skerry.adapters.process.detached import boot_id
from skerry.kit.record import Record, decode, encode

FEATURES = Path("/sys/kernel/debug/sched/features")
ON, OFF = "HRTICK", "NO_HRTICK"  # as the kernel lists it, and as it is told
CAN_BE = f"{ON} can be switched on"
OWES = "PLACE_LAG"  # listed by kernels that keep a balance for each group


class FineTurnsError(Exception):
    """The kernel does not offer it, or not to us; the text says what."""


class Owned(Record):
    """What its owner noted before it switched: the boot that it belongs to."""

    boot: str


def find(*, features: Path = FEATURES) -> tuple[bool, str]:
    """Whether turns end exactly, or will once somebody says so, or need not; and what there is. Changes nothing."""
    try:
        listed = features.read_text().split()
    except OSError as error:
        return False, f"{features}: {error.strerror} (root finds it once debugfs is mounted there)"
    if ON in listed:
        return True, f"{ON} is on"
    if OWES not in listed:
        return True, "not needed with this kernel"
    return (True, CAN_BE) if OFF in listed else (False, f"this kernel has no {ON}")


def ensure(record: Path, *, features: Path = FEATURES) -> bool:
    """Make sure that turns end exactly: True if this switched; False if they did, or if the kernel owes nobody any.

    Raises `FineTurnsError`. `give_back` undoes it.
    """
    give_back(record, features=features)
    good, found = find(features=features)
    if not good:
        raise FineTurnsError(found)
    if found != CAN_BE:
        return False
    try:
        replace_durably(record, encode(Owned(boot=boot_id())))
        features.write_text(ON)
    except OSError as error:
        record.unlink(missing_ok=True)
        raise FineTurnsError(f"{features}: {error.strerror}") from error
    return True


def give_back(record: Path, *, features: Path = FEATURES) -> None:
    """Switch back what `ensure` switched with this record; nothing if it did not. Idempotent. Raises `FineTurnsError`."""
    try:
        owned = decode(record.read_bytes(), Owned)
    except FileNotFoundError:
        return
    except ValueError:
        record.unlink()
        return
    if owned.boot == boot_id():
        try:
            features.write_text(OFF)
        except OSError as error:
            raise FineTurnsError(f"{features}: {error.strerror}") from error
    record.unlink(missing_ok=True)
