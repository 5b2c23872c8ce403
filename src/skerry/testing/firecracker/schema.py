"""Bodies of Firecracker's API: decoded field by field in the order of the text, with the words of its decoder for each refusal.

The column in its texts is not reproduced: everything up to " at line" is.
"""

import ipaddress
import json
import re
from collections.abc import Callable
from typing import Any, cast

Pairs = list[tuple[str, Any]]
Check = Callable[[Any], Any]
_WHERE = " at line 1 column 1"
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_SIZES = {"u8": 1 << 8, "u16": 1 << 16, "u32": 1 << 32, "u64": 1 << 64, "usize": 1 << 64}


class Refused(Exception):
    """Answered with 400, as a fault message."""


class Fields(Pairs):
    """An object, as its pairs: a field may come twice."""


def parse(body: bytes) -> Any:
    try:
        return json.loads(body, object_pairs_hook=Fields)
    except ValueError as error:
        text = body.decode(errors="replace").strip()
        raise wrong("EOF while parsing an object" if text == "{" else "expected value") from error


def plain(value: Any) -> Any:
    """Objects as dictionaries."""
    if isinstance(value, Fields):
        return {name: plain(each) for name, each in value}
    return [plain(each) for each in cast("list[Any]", value)] if isinstance(value, list) else value


def wrong(text: str, *, where: bool = True) -> Refused:
    return Refused(f"An error occurred when deserializing the json body of a request: {text}{_WHERE if where else ''}.")


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f'string "{value}"'
    return "map" if isinstance(value, Fields) else "sequence"


def number(kind: str) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(f"invalid type: {_shown(value)}, expected {kind}")
        if not 0 <= value < _SIZES[kind]:
            raise wrong(f"invalid value: integer `{value}`, expected {kind}")
        return value

    return check


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(f"invalid type: {_shown(value)}, expected a string")
    return value


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(f"invalid type: {_shown(value)}, expected a boolean")
    return value


def one_of(*names: str) -> Check:
    def check(value: Any) -> str:
        if value not in names:
            raise wrong(f"unknown variant `{value}`, {_expected(names)}")
        return value

    return check


def maybe(inner: Check) -> Check:
    return lambda value: None if value is None else inner(value)


def list_of(inner: Check) -> Check:
    return lambda value: [inner(each) for each in value]


def anything(value: Any) -> Any:
    return plain(value)


def mac(value: Any) -> str:
    if not _MAC.fullmatch(text(value)):
        raise wrong("The provided MAC address is invalid.")
    return value.lower()


def ipv4(value: Any) -> str:
    try:
        return str(ipaddress.IPv4Address(text(value)))
    except ValueError as error:
        raise wrong("invalid IPv4 address syntax") from error


def level(value: Any) -> str:
    if text(value).lower() not in ("off", "error", "warn", "warning", "info", "debug", "trace"):
        raise wrong("Invalid LevelFilter")
    return value


def _expected(names: tuple[str, ...]) -> str:
    quoted = [f"`{name}`" for name in names]
    if len(quoted) == 1:
        return f"expected {quoted[0]}"
    return f"expected {' or '.join(quoted)}" if len(quoted) == 2 else f"expected one of {', '.join(quoted)}"


class Struct:
    """`fields` in the order of the source, since that is the order in which missing ones are told. Those with a default are
    optional. `open_`: unknown fields are ignored."""

    def __init__(self, name: str, fields: dict[str, Check], *, defaults: dict[str, Any], open_: bool = False) -> None:
        self._name, self._fields, self._defaults, self._open = name, fields, defaults, open_

    def __call__(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Fields):
            if isinstance(value, list):
                length = len(cast("list[Any]", value))
                raise wrong(f"invalid length {length}, expected struct {self._name} with {len(self._fields)} elements")
            raise wrong(f"invalid type: {_shown(value)}, expected struct {self._name}")
        found: dict[str, Any] = {}
        for name, each in value:
            if name not in self._fields:
                if self._open:
                    continue
                raise wrong(f"unknown field `{name}`, {_expected(tuple(self._fields))}")
            if name in found:
                raise wrong(f"duplicate field `{name}`")
            found[name] = self._fields[name](each)
        for name in self._fields:
            if name not in found and name not in self._defaults:
                raise wrong(f"missing field `{name}`")
        return {**self._defaults, **found}


def optional(name: str, fields: dict[str, Check]) -> Struct:
    """All of them may be absent."""
    return Struct(name, fields, defaults=dict.fromkeys(fields))


BUCKET = Struct(
    "TokenBucketConfig",
    {"size": number("u64"), "one_time_burst": maybe(number("u64")), "refill_time": number("u64")},
    defaults={"one_time_burst": None},
)
LIMITER = optional("RateLimiterConfig", {"bandwidth": maybe(BUCKET), "ops": maybe(BUCKET)})
_MACHINE: dict[str, Check] = {
    "vcpu_count": number("u8"), "mem_size_mib": number("usize"), "smt": flag,
    "cpu_template": maybe(one_of("C3", "T2", "T2S", "None", "T2CL", "T2A")), "track_dirty_pages": flag,
    "huge_pages": one_of("None", "Transparent", "2M"),
}  # fmt: skip
MACHINE = Struct(
    "MachineConfig", _MACHINE,
    defaults={"smt": False, "cpu_template": None, "track_dirty_pages": False, "huge_pages": "None"},
)  # fmt: skip
MACHINE_UPDATE = optional("MachineConfigUpdate", {name: maybe(check) for name, check in _MACHINE.items()})
BOOT = Struct(
    "BootSourceConfig", {"kernel_image_path": text, "initrd_path": maybe(text), "boot_args": maybe(text)},
    defaults={"initrd_path": None, "boot_args": None},
)  # fmt: skip
DRIVE = Struct(
    "BlockDeviceConfig",
    {
        "drive_id": text, "partuuid": maybe(text), "is_root_device": flag, "cache_type": one_of("Unsafe", "Writeback"),
        "is_read_only": maybe(flag), "path_on_host": maybe(text), "rate_limiter": maybe(LIMITER),
        "io_engine": maybe(one_of("Sync", "Async")), "socket": maybe(text),
    },
    defaults={
        "partuuid": None, "cache_type": "Unsafe", "is_read_only": None, "path_on_host": None, "rate_limiter": None,
        "io_engine": None, "socket": None,
    },
)  # fmt: skip
DRIVE_UPDATE = Struct(
    "BlockDeviceUpdateConfig", {"drive_id": text, "path_on_host": maybe(text), "rate_limiter": maybe(LIMITER)},
    defaults={"path_on_host": None, "rate_limiter": None},
)  # fmt: skip
NETWORK = Struct(
    "NetworkInterfaceConfig",
    {
        "iface_id": text, "host_dev_name": text, "guest_mac": maybe(mac), "mtu": maybe(number("u16")),
        "rx_rate_limiter": maybe(LIMITER), "tx_rate_limiter": maybe(LIMITER),
    },
    defaults={"guest_mac": None, "mtu": None, "rx_rate_limiter": None, "tx_rate_limiter": None},
)  # fmt: skip
NETWORK_UPDATE = Struct(
    "NetworkInterfaceUpdateConfig",
    {"iface_id": text, "rx_rate_limiter": maybe(LIMITER), "tx_rate_limiter": maybe(LIMITER)},
    defaults={"rx_rate_limiter": None, "tx_rate_limiter": None},
)
VSOCK = Struct(
    "VsockDeviceConfig", {"vsock_id": maybe(text), "guest_cid": number("u32"), "uds_path": text}, defaults={"vsock_id": None}
)
BALLOON = Struct(
    "BalloonDeviceConfig",
    {
        "amount_mib": number("u32"), "deflate_on_oom": flag, "stats_polling_interval_s": number("u16"),
        "free_page_hinting": flag, "free_page_reporting": flag,
    },
    defaults={"stats_polling_interval_s": 0, "free_page_hinting": False, "free_page_reporting": False},
)  # fmt: skip
BALLOON_UPDATE = Struct("BalloonUpdateConfig", {"amount_mib": number("u32")}, defaults={})
STATISTICS_UPDATE = Struct("BalloonUpdateStatsConfig", {"stats_polling_interval_s": number("u16")}, defaults={})
ENTROPY = optional("EntropyDeviceConfig", {"rate_limiter": maybe(LIMITER)})
LOGGER = optional(
    "LoggerConfig",
    {
        "log_path": maybe(text),
        "level": maybe(level),
        "show_level": maybe(flag),
        "show_log_origin": maybe(flag),
        "module": maybe(text),
    },
)
METRICS = Struct("MetricsConfig", {"metrics_path": text}, defaults={}, open_=True)
SERIAL = optional("SerialConfig", {"serial_out_path": maybe(text), "rate_limiter": maybe(LIMITER)})
CPU = Struct(
    "CustomCpuTemplate", {"kvm_capabilities": anything, "cpuid_modifiers": anything, "msr_modifiers": anything},
    defaults={"kvm_capabilities": [], "cpuid_modifiers": [], "msr_modifiers": []},
)  # fmt: skip
MMDS = Struct(
    "MmdsConfig",
    {"version": one_of("V1", "V2"), "network_interfaces": list_of(text), "ipv4_address": maybe(ipv4), "imds_compat": flag},
    defaults={"version": "V1", "ipv4_address": None, "imds_compat": False},
)
ACTION = Struct("ActionBody", {"action_type": one_of("FlushMetrics", "InstanceStart", "SendCtrlAltDel")}, defaults={})
VM = Struct("Vm", {"state": one_of("Paused", "Resumed")}, defaults={})
CREATE = Struct(
    "CreateSnapshotParams", {"snapshot_type": one_of("Diff", "Full"), "snapshot_path": text, "mem_file_path": text},
    defaults={"snapshot_type": "Full"},
)  # fmt: skip
BACKEND = Struct("MemBackendConfig", {"backend_type": one_of("File", "Uffd"), "backend_path": text}, defaults={})
OVERRIDE = Struct("NetworkOverride", {"iface_id": text, "host_dev_name": text}, defaults={})
LOAD = Struct(
    "LoadSnapshotConfig",
    {
        "snapshot_path": text, "mem_file_path": maybe(text), "mem_backend": maybe(BACKEND), "enable_diff_snapshots": flag,
        "track_dirty_pages": flag, "resume_vm": flag, "network_overrides": list_of(OVERRIDE),
        "vsock_override": maybe(Struct("VsockOverride", {"uds_path": text}, defaults={})), "clock_realtime": flag,
        "huge_pages": anything,
    },
    defaults={
        "mem_file_path": None, "mem_backend": None, "enable_diff_snapshots": None, "track_dirty_pages": False, "resume_vm": False,
        "network_overrides": [], "vsock_override": None, "clock_realtime": False, "huge_pages": None,
    },
)  # fmt: skip
HOTPLUG = Struct(
    "MemoryHotplugConfig",
    {"total_size_mib": number("usize"), "block_size_mib": number("usize"), "slot_size_mib": number("usize")},
    defaults={"block_size_mib": 2, "slot_size_mib": 128},
)
HOTPLUG_UPDATE = Struct("MemoryHotplugSizeUpdate", {"requested_size_mib": number("usize")}, defaults={})
PMEM = Struct(
    "PmemConfig", {"id": text, "path_on_host": text, "root_device": flag, "read_only": flag},
    defaults={"root_device": False, "read_only": False},
)  # fmt: skip
