"""The devices of the fake: what they were configured as."""

import copy
import os
from pathlib import Path
from typing import Any

from skerry.testing.firecracker.schema import Refused

TAP_NAME_MAX = 15
_ABSENT = "No such file or directory (os error 2)"
_DEVICE_MISSING = "Failed perform action on device: Device not found"


def _limiter(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """A bucket of size zero is none; a limiter without buckets is none."""
    if given is None:
        return None
    buckets = {name: None if not bucket or not bucket["size"] else bucket for name, bucket in given.items()}
    return buckets if any(buckets.values()) else None


def _changed(old: dict[str, Any] | None, given: dict[str, Any]) -> dict[str, Any] | None:
    """What is not named stays."""
    return _limiter({**(old or {"bandwidth": None, "ops": None}), **{name: bucket for name, bucket in given.items() if bucket}})


class Devices:
    def __init__(self, directory: Path) -> None:
        self.drives: dict[str, dict[str, Any]] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.pmems: dict[str, dict[str, Any]] = {}
        self.vsock: dict[str, Any] | None = None
        self.balloon: dict[str, Any] | None = None
        self.entropy: dict[str, Any] | None = None
        self.metadata: dict[str, Any] | None = None
        self._directory = directory

    def shown(self, *, started: bool) -> dict[str, Any]:
        drives = sorted(self.drives.values(), key=lambda each: each["drive_id"]) if started else list(self.drives.values())
        return {
            "balloon": self.balloon, "drives": drives, "network-interfaces": list(self.networks.values()), "vsock": self.vsock,
            "entropy": self.entropy, "pmem": list(self.pmems.values()), "mmds-config": self.metadata,
        }  # fmt: skip

    def put_drive(self, given: dict[str, Any], *, hot: bool) -> None:
        name = given["drive_id"]
        if hot and name in self.drives:
            raise Refused("Device ID in use")
        if given["is_root_device"] and (hot or any(each["is_root_device"] for key, each in self.drives.items() if key != name)):
            raise Refused("Drive config error: A root block device already exists!")
        failed = "Drive config error: Unable to create the virtio block device"
        if given["path_on_host"] is None or given["socket"] is not None:
            raise Refused(f"{failed}: Invalid block config.")
        self._need_file(given["path_on_host"], failed)
        self.drives[name] = {
            **given, "is_read_only": bool(given["is_read_only"]), "io_engine": given["io_engine"] or "Sync",
            "rate_limiter": _limiter(given["rate_limiter"]),
        }  # fmt: skip

    def patch_drive(self, given: dict[str, Any]) -> None:
        failed, end = "Drive config error: Unable to patch the block device", " Please verify the request arguments."
        drive = self.drives.get(given["drive_id"])
        if drive is None:
            raise Refused(f"{failed}: {_DEVICE_MISSING}{end}")
        if given["path_on_host"] is None and given["rate_limiter"] is None:
            raise Refused(f"{failed}: Block: Running method expected different backend.{end}")
        if given["path_on_host"] is not None:
            self._need_file(given["path_on_host"], f"{failed}: Block", end=end)
            drive["path_on_host"] = given["path_on_host"]
        if given["rate_limiter"] is not None:
            drive["rate_limiter"] = _changed(drive["rate_limiter"], given["rate_limiter"])

    def put_network(self, given: dict[str, Any]) -> None:
        name = given["iface_id"]
        others = [each for key, each in self.networks.items() if key != name]
        failed = "Network config error: "
        if given["guest_mac"] and any(each["guest_mac"] == given["guest_mac"] for each in others):
            raise Refused(f"{failed}The MAC address is already in use: {given['guest_mac']}")
        opening = f"{failed}Could not create the network device: Open tap device failed: "
        tap = given["host_dev_name"]
        if len(tap) > TAP_NAME_MAX:
            raise Refused(f"{opening}Invalid interface name")
        if any(each["host_dev_name"] == tap for each in others):
            raise Refused(
                f"{opening}Error while creating ifreq structure: Device or resource busy (os error 16). Invalid TUN/TAP Backend"
                f" provided by {tap}. Check our documentation on setting up the network devices."
            )
        limits = {key: _limiter(given[key]) for key in ("rx_rate_limiter", "tx_rate_limiter")}
        self.networks[name] = {**given, **limits}

    def patch_network(self, given: dict[str, Any]) -> None:
        network = self.networks.get(given["iface_id"])
        if network is None:
            raise Refused(f"Network config error: Unable to update the net device: {_DEVICE_MISSING}")
        for key in ("rx_rate_limiter", "tx_rate_limiter"):
            if given[key] is not None:
                network[key] = _changed(network[key], given[key])

    def put_pmem(self, given: dict[str, Any], *, hot: bool) -> None:
        if hot and not (self._directory / given["path_on_host"]).exists():
            raise Refused(f"Pmem config error: Unable to create the virtio-pmem device: Error accessing backing file: {_ABSENT}")
        self.pmems[given["id"]] = given

    def put_vsock(self, given: dict[str, Any]) -> None:
        if not self._vsock_path(given["uds_path"]).parent.is_dir():
            raise Refused(
                "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: "
                + _ABSENT
            )
        self.vsock = {"guest_cid": given["guest_cid"], "uds_path": given["uds_path"]}

    def balloon_statistics(self, memory_mib: int) -> dict[str, int]:
        if self.balloon is None:
            raise Refused("Balloon config error: No balloon device found.")
        mib = self.balloon["amount_mib"]
        return {
            "target_pages": mib * 256, "actual_pages": 0, "target_mib": mib, "actual_mib": 0, "free_memory": memory_mib << 19,
            "total_memory": memory_mib << 20,
        }  # fmt: skip

    def delete(self, kind: str, name: str) -> None:
        kept = {"drives": self.drives, "network-interfaces": self.networks, "pmem": self.pmems}[kind]
        if kept.pop(name, None) is None:
            raise Refused("Device not found")

    def kept(self) -> dict[str, Any]:
        """For a snapshot."""
        names = ("drives", "networks", "pmems", "vsock", "balloon", "entropy", "metadata")
        return {name: copy.deepcopy(getattr(self, name)) for name in names}

    def restore(self, kept: dict[str, Any], given: dict[str, Any], failed: str) -> None:
        for name, value in kept.items():
            setattr(self, name, value)
        for override in given["network_overrides"]:
            if override["iface_id"] not in self.networks:
                raise Refused(f"{failed}Unknown Network Device.")
            self.networks[override["iface_id"]]["host_dev_name"] = override["host_dev_name"]
        if given["vsock_override"] is not None and self.vsock is not None:
            self.vsock["uds_path"] = given["vsock_override"]["uds_path"]

    def bind_vsock_again(self) -> None:
        """After a load the socket has to be a new one."""
        if self.vsock is not None and os.path.lexists(self._vsock_path(self.vsock["uds_path"])):
            raise Refused(
                "Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO devices:"
                " VsockUnixBackend: Error binding to the host-side Unix socket: Address already in use (os error 98)"
            )

    def _vsock_path(self, path: str) -> Path:
        return self._directory / path.lstrip("/")

    def _need_file(self, path: str, failed: str, *, end: str = "") -> None:
        there = self._directory / path.lstrip("/")
        if there.is_file():
            return
        reason = "Is a directory (os error 21)" if there.is_dir() else _ABSENT
        raise Refused(f"{failed}: Virtio backend error: Error manipulating the backing file: {reason} {path}{end}")
