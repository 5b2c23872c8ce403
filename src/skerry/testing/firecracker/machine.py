"""What each call of the API does in which state: calls in, answers out. Of the outside it only looks whether files are there."""

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from skerry.testing.firecracker import schema
from skerry.testing.firecracker.devices import Devices
from skerry.testing.firecracker.rules import is_deprecated, loader, merged
from skerry.testing.firecracker.schema import Refused

VERSION = "1.17.0-dev"
BEFORE = "The requested operation is not supported before starting the microVM."
AFTER = "The requested operation is not supported after starting the microVM."
NO_PCI = "PCI is not enabled"
NO_HINTING = "Balloon update error: Balloon: Attempting to use hinting when not enabled"
DEVICE_MISSING = "Failed perform action on device: Device not found"
ABSENT = "No such file or directory (os error 2)"
MEMORY_MIB_MAX = 1 << 24  # what this fake can map
BOOT_ARGS_MAX = 2048
STATE_MAGIC = "fake firecracker state"
_ID = re.compile(r"[A-Za-z0-9_]+")
_WITH_ID = ("drives", "network-interfaces", "pmem")


class Answer(NamedTuple):
    """`body` None: none. `exits`: Firecracker ends after it."""

    status: int
    body: Any = None
    deprecated: bool = False
    exits: bool = False


class Machine:
    """One Firecracker process. `directory` is its root: paths of bodies are below it."""

    def __init__(self, directory: Path, *, name: str = "fake", pci: bool = False, metadata_bytes_max: int = 51_200) -> None:
        self.state: Literal["Not started", "Running", "Paused"] = "Not started"
        self.name = name
        self.devices = Devices(directory)
        self._directory = directory
        self._pci = pci
        self._metadata_bytes_max = metadata_bytes_max
        self._machine: dict[str, Any] = schema.MACHINE_UPDATE(schema.Fields()) | {
            "vcpu_count": 1, "mem_size_mib": 128, "smt": False, "track_dirty_pages": False, "huge_pages": "None",
        }  # fmt: skip
        self._boot: dict[str, Any] = {"kernel_image_path": "", "initrd_path": None, "boot_args": None}
        self._metadata: Any = None
        self._has_metrics = False
        self._boot_specific = False

    def call(self, method: str, path: str, body: bytes | None) -> Answer:
        parts = [part for part in path.split("/") if part]
        try:
            return self._route(method, path, parts, body)
        except Refused as error:
            status = 413 if str(error).startswith("MMDS limit exceeded") else 400
            return Answer(status, {"fault_message": str(error)}, deprecated=is_deprecated(method, parts, body))

    def _route(self, method: str, path: str, parts: list[str], body: bytes | None) -> Answer:
        first, rest = (parts[0] if parts else ""), parts[1:]
        if method == "GET":
            if body:
                raise Refused("GET request cannot have a body.")
            return Answer(200, self._get(first, rest))
        if method == "DELETE":
            return self._delete(first, rest, body)
        handlers = self._puts() if method == "PUT" else self._patches()
        if first in _WITH_ID and (first in handlers):
            self._check_id(rest)
        handler = handlers.get(f"{first}/{rest[0]}" if rest else first) or handlers.get(first)
        if first == "snapshot" and method == "PUT":
            if not rest:
                raise Refused("Missing snapshot operation type.")
            if rest[0] not in ("create", "load"):
                raise Refused(f"Invalid request method and/or path: PUT {path}.")
        if first == "mmds" and rest and rest[0] != "config":
            raise Refused(f"Unrecognized {method} request path `{rest[0]}`.")
        if handler is None or (first == "hotplug" and rest[:1] != ["memory"]):
            raise Refused(f"Invalid request method and/or path: {method} {first}.")
        if not body and not (method == "PATCH" and rest[:1] == ["hinting"]):
            raise Refused(f"Empty {method} request.")
        found = handler(schema.parse(body) if body else None, rest)
        deprecated = is_deprecated(method, parts, body)
        return found._replace(deprecated=deprecated) if isinstance(found, Answer) else Answer(204, deprecated=deprecated)

    def _puts(self) -> dict[str, Any]:
        return {
            "machine-config": self._put_machine, "boot-source": self._put_boot, "drives": self._put_drive,
            "network-interfaces": self._put_network, "vsock": self._put_vsock, "balloon": self._put_balloon,
            "entropy": self._put_entropy, "logger": self._put_logger, "metrics": self._put_metrics, "serial": self._put_serial,
            "cpu-config": self._put_cpu, "mmds": self._put_metadata, "mmds/config": self._put_mmds_config,
            "pmem": self._put_pmem, "hotplug/memory": self._put_hotplug, "actions": self._act,
            "snapshot/create": self._create, "snapshot/load": self._load,
        }  # fmt: skip

    def _patches(self) -> dict[str, Any]:
        return {
            "machine-config": self._patch_machine, "drives": self._patch_drive, "network-interfaces": self._patch_network,
            "balloon": self._patch_balloon, "balloon/statistics": self._patch_statistics, "balloon/hinting": self._patch_hinting,
            "mmds": self._patch_metadata, "vm": self._patch_vm, "hotplug/memory": self._patch_hotplug,
        }  # fmt: skip

    # GET

    def _get(self, first: str, rest: list[str]) -> Any:
        if first == "":
            return {"id": self.name, "state": self.state, "vmm_version": VERSION, "app_name": "Firecracker"}
        if first == "version":
            return {"firecracker_version": VERSION}
        if first == "machine-config":
            return self._shown_machine()
        if first == "mmds":
            return self._metadata if self._metadata is not None else {}
        if first == "balloon":
            return self._get_balloon(rest)
        if first == "hotplug" and rest[:1] == ["memory"]:
            self._need_started()
            raise Refused(f"Internal VMM error: {DEVICE_MISSING}")
        if first == "vm" and rest[:1] == ["config"]:
            return self._shown_config()
        raise Refused(f"Invalid request method and/or path: GET {first}.")

    def _get_balloon(self, rest: list[str]) -> Any:
        if rest[:1] == ["statistics"]:
            self._need_started()
            return self.devices.balloon_statistics(self._machine["mem_size_mib"])
        if rest[:2] == ["hinting", "status"]:
            self._need_started()
            raise Refused(NO_HINTING)
        if rest:
            raise Refused(f"Unrecognized GET request path `{rest[0]}`.")
        if self.devices.balloon is None:
            raise Refused("Balloon config error: No balloon device found.")
        return self.devices.balloon

    def _shown_machine(self) -> dict[str, Any]:
        return {name: value for name, value in self._machine.items() if name != "cpu_template"}

    def _shown_config(self) -> dict[str, Any]:
        return {
            **self.devices.shown(started=self._started), "boot-source": self._boot, "cpu-config": None, "logger": None,
            "machine-config": self._shown_machine(), "metrics": None, "memory-hotplug": None,
        }  # fmt: skip

    # before the start

    def _put_machine(self, body: Any, rest: list[str]) -> None:
        given = schema.MACHINE(body)
        self._need_fresh()
        self._set_machine(given)

    def _patch_machine(self, body: Any, rest: list[str]) -> None:
        given = {name: value for name, value in schema.MACHINE_UPDATE(body).items() if value is not None}
        if not given:
            raise Refused("Empty PATCH request.")
        self._need_fresh()
        self._set_machine({**self._machine, **given})

    def _set_machine(self, wanted: dict[str, Any]) -> None:
        cpus, memory = wanted["vcpu_count"], wanted["mem_size_mib"]
        if not 0 < cpus <= 32 or (wanted["smt"] and cpus > 1 and cpus % 2):
            raise Refused(
                "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number"
                " if SMT is enabled."
            )
        if memory == 0 or (wanted["huge_pages"] == "2M" and memory % 2):
            raise Refused(
                "Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size."
            )
        self._machine = wanted
        self._boot_specific = True

    def _put_boot(self, body: Any, rest: list[str]) -> None:
        given = schema.BOOT(body)
        self._need_fresh()
        if not (self._directory / given["kernel_image_path"]).exists():
            raise Refused("Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)")
        if given["initrd_path"] is not None and not (self._directory / given["initrd_path"]).exists():
            raise Refused(
                "Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions."
                " No such file or directory (os error 2)"
            )
        if len((given["boot_args"] or "").encode()) >= BOOT_ARGS_MAX:
            raise Refused("Boot source error: The kernel command line is invalid: Invalid cmdline capacity provided.")
        self._boot = given
        self._boot_specific = True

    def _put_drive(self, body: Any, rest: list[str]) -> None:
        given = schema.DRIVE(body)
        if given["drive_id"] != rest[0]:
            raise Refused("The id from the path does not match the id from the body!")
        self._need_pci_if_started()
        self.devices.put_drive(given, hot=self._started)
        self._boot_specific = True

    def _put_network(self, body: Any, rest: list[str]) -> None:
        given = schema.NETWORK(body)
        if given["iface_id"] != rest[0]:
            raise Refused(f"The id from the path [{rest[0]}] does not match the id from the body [{given['iface_id']}]!")
        self._need_pci_if_started()
        self.devices.put_network(given)
        self._boot_specific = True

    def _put_pmem(self, body: Any, rest: list[str]) -> None:
        given = schema.PMEM(body)
        self._need_pci_if_started()
        self.devices.put_pmem(given, hot=self._started)
        self._boot_specific = True

    def _put_vsock(self, body: Any, rest: list[str]) -> None:
        given = schema.VSOCK(body)
        self._need_fresh()
        self.devices.put_vsock(given)
        self._boot_specific = True

    def _put_balloon(self, body: Any, rest: list[str]) -> None:
        given = schema.BALLOON(body)
        self._need_fresh()
        if given["amount_mib"] > self._machine["mem_size_mib"]:
            raise Refused("Balloon config error: Amount of pages requested is too large.")
        self.devices.balloon = given
        self._boot_specific = True

    def _put_entropy(self, body: Any, rest: list[str]) -> None:
        given = schema.ENTROPY(body)
        self._need_fresh()
        self.devices.entropy = given
        self._boot_specific = True

    def _put_cpu(self, body: Any, rest: list[str]) -> None:
        schema.CPU(body)
        self._need_fresh()

    def _put_hotplug(self, body: Any, rest: list[str]) -> None:
        given = schema.HOTPLUG(body)
        self._need_fresh()
        if given["total_size_mib"] < given["slot_size_mib"]:
            raise Refused(
                f"Memory hotplug config error: Total size must not be lower than slot size ({given['slot_size_mib']} MiB)"
            )

    def _put_logger(self, body: Any, rest: list[str]) -> None:
        given = schema.LOGGER(body)
        self._need_fresh()
        self._need_parent(given["log_path"], "Logger error: Failed to open target file")

    def _put_metrics(self, body: Any, rest: list[str]) -> None:
        given = schema.METRICS(body)
        self._need_fresh()
        bad = "Metrics error: Cannot initialize the metrics system due to bad user input"
        self._need_parent(given["metrics_path"], bad)
        if self._has_metrics:
            raise Refused(f"{bad}: Reinitialization of metrics not allowed.")
        self._has_metrics = True

    def _put_serial(self, body: Any, rest: list[str]) -> None:
        schema.SERIAL(body)
        self._need_fresh()

    def _put_mmds_config(self, body: Any, rest: list[str]) -> None:
        given = schema.MMDS(body)
        self._need_fresh()
        names = given["network_interfaces"]
        if not names:
            raise Refused("MMMDS config error: The list of network interface IDs that allow forwarding MMDS requests is empty.")
        if any(name not in self.devices.networks for name in names):
            raise Refused(
                "MMMDS config error: The list of network interface IDs provided contains at least one ID that does not"
                " correspond to any existing network interface."
            )
        address = given["ipv4_address"] or "169.254.169.254"
        if not ipaddress.IPv4Address(address).is_link_local:
            raise Refused("MMMDS config error: The MMDS IPv4 address is not link local.")
        self.devices.metadata = {**given, "ipv4_address": address}

    # in any state

    def _put_metadata(self, body: Any, rest: list[str]) -> None:
        self._keep_metadata(schema.plain(body))

    def _patch_metadata(self, body: Any, rest: list[str]) -> None:
        if self._metadata is None:
            raise Refused("MMDS error: The MMDS data store is not initialized.")
        self._keep_metadata(merged(self._metadata, schema.plain(body)))

    def _keep_metadata(self, wanted: Any) -> None:
        if len(json.dumps(wanted, separators=(",", ":"))) > self._metadata_bytes_max:
            raise Refused("MMDS limit exceeded error: The MMDS patch request doesn't fit.")
        self._metadata = wanted

    def _act(self, body: Any, rest: list[str]) -> None:
        action = schema.ACTION(body)["action_type"]
        if action != "InstanceStart":
            return self._need_started()
        self._need_fresh()
        self._start()
        return None

    def _start(self) -> None:
        kernel = self._boot["kernel_image_path"]
        failed = "Start microvm error: "
        loading = "System configuration error: Cannot load kernel due to invalid memory configuration or invalid kernel image: "
        if not kernel:
            raise Refused(f"{failed}Cannot start microvm without kernel configuration.")
        if self._machine["mem_size_mib"] > MEMORY_MIB_MAX:
            raise Refused(
                f"{failed}Invalid Memory Configuration: Cannot create mmap region: Cannot allocate memory (os error 12)"
            )
        path = self._directory / kernel
        if path.is_dir():
            raise Refused(
                f"{failed}{loading}Kernel Loader: failed to load ELF kernel image: Kernel Loader: Unable to read elf header"
            )
        if path.read_bytes()[:4] != b"\x7fELF":
            raise Refused(f"{failed}{loading}{loader('bzImage', 'Invalid bzImage')}")
        missing = [each for each in self.devices.pmems.values() if not (self._directory / each["path_on_host"]).exists()]
        if missing:
            raise Refused(
                f"{failed}Cannot create pmem device: Error accessing backing file: No such file or directory (os error 2)"
            )
        self.state = "Running"

    # after the start

    def _patch_vm(self, body: Any, rest: list[str]) -> None:
        wanted = schema.VM(body)["state"]
        self._need_started()
        self.state = "Paused" if wanted == "Paused" else "Running"

    def _patch_drive(self, body: Any, rest: list[str]) -> None:
        given = schema.DRIVE_UPDATE(body)
        self._need_started()
        self.devices.patch_drive(given)

    def _patch_network(self, body: Any, rest: list[str]) -> None:
        given = schema.NETWORK_UPDATE(body)
        self._need_started()
        self.devices.patch_network(given)

    def _patch_balloon(self, body: Any, rest: list[str]) -> None:
        given = schema.BALLOON_UPDATE(body)
        self._need_started()
        if self.devices.balloon is None:
            raise Refused(f"Balloon update error: {DEVICE_MISSING}")
        self.devices.balloon = {**self.devices.balloon, **given}

    def _patch_statistics(self, body: Any, rest: list[str]) -> None:
        given = schema.STATISTICS_UPDATE(body)
        self._need_started()
        balloon = self.devices.balloon or {"stats_polling_interval_s": 0}
        if (given["stats_polling_interval_s"] == 0) != (balloon["stats_polling_interval_s"] == 0):
            raise Refused("Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.")
        self.devices.balloon = {**balloon, **given}

    def _patch_hinting(self, body: Any, rest: list[str]) -> None:
        self._need_started()
        raise Refused(NO_HINTING)

    def _patch_hotplug(self, body: Any, rest: list[str]) -> None:
        schema.HOTPLUG_UPDATE(body)
        self._need_started()
        raise Refused(f"Memory hotplug update error: {DEVICE_MISSING}")

    def _delete(self, first: str, rest: list[str], body: bytes | None) -> Answer:
        if body:
            raise Refused("Empty Delete request.")
        if first not in _WITH_ID:
            raise Refused(f"Invalid request method and/or path: DELETE {first}.")
        self._check_id(rest)
        self._need_started()
        if not self._pci:
            raise Refused(NO_PCI)
        self.devices.delete(first, rest[0])
        return Answer(204)

    # snapshots

    def _create(self, body: Any, rest: list[str]) -> None:
        given = schema.CREATE(body)
        self._need_started()
        failed = "Create snapshot error: "
        if self.state == "Running":
            raise Refused(f"{failed}Cannot save the microVM state: Operation not allowed: save/restore unavailable while running")
        self._need_parent(given["snapshot_path"], f"{failed}Cannot perform open on the snapshot backing file")
        self._need_parent(given["mem_file_path"], f"{failed}Cannot perform open on the memory backing file")
        kept = {"magic": STATE_MAGIC, "machine": self._machine, "boot": self._boot, "devices": self.devices.kept()}
        (self._directory / given["snapshot_path"]).write_text(json.dumps(kept))
        with (self._directory / given["mem_file_path"]).open("wb") as memory:
            memory.truncate(self._machine["mem_size_mib"] << 20)

    def _load(self, body: Any, rest: list[str]) -> Answer:
        given = schema.LOAD(body)
        if given["mem_backend"] is None and given["mem_file_path"] is None:
            raise schema.wrong("missing field: either `mem_backend` or `mem_file_path` is required", where=False)
        if given["mem_backend"] is not None and given["mem_file_path"] is not None:
            raise schema.wrong("too many fields: either `mem_backend` or `mem_file_path` exclusively is required", where=False)
        self._need_fresh()
        if self._boot_specific:
            raise Refused(
                "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources."
            )
        try:
            self._restore(given)
        except Refused as error:
            text = f"Load snapshot error: Failed to restore from snapshot: {error}"
            return Answer(400, {"fault_message": text}, exits=True)
        self.state = "Running" if given["resume_vm"] else "Paused"
        return Answer(204)

    def _restore(self, given: dict[str, Any]) -> None:
        from_file = "Failed to get snapshot state from file: "
        path = self._directory / given["snapshot_path"].lstrip("/")
        if not path.exists():
            raise Refused(f"{from_file}Failed to open snapshot file: {ABSENT}")
        try:
            kept = json.loads(path.read_bytes())
            assert kept["magic"] == STATE_MAGIC
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise Refused(
                f"{from_file}Failed to load snapshot state from file: An error occurred during bitcode serialization:"
                " bitcode error"
            ) from error
        devices = Devices(self._directory)
        devices.restore(kept["devices"], given, from_file)
        self._need_memory(given)
        devices.bind_vsock_again()
        self._machine = {**kept["machine"], "track_dirty_pages": given["track_dirty_pages"]}
        self._boot, self.devices = kept["boot"], devices

    def _need_memory(self, given: dict[str, Any]) -> None:
        backend = given["mem_backend"] or {"backend_type": "File", "backend_path": given["mem_file_path"]}
        if (self._directory / backend["backend_path"].lstrip("/")).exists():
            return
        if backend["backend_type"] == "Uffd":
            raise Refused(
                "Failed to load guest memory: Error creating guest memory from uffd: Failed to connect to UDS Unix stream: "
                + ABSENT
            )
        raise Refused(
            "Failed to load guest memory: Error creating guest memory from file: Failed to load guest memory: " + ABSENT
        )

    # conditions

    @property
    def _started(self) -> bool:
        return self.state != "Not started"

    def _need_started(self) -> None:
        if not self._started:
            raise Refused(BEFORE)

    def _need_fresh(self) -> None:
        if self._started:
            raise Refused(AFTER)

    def _need_pci_if_started(self) -> None:
        if self._started and not self._pci:
            raise Refused(NO_PCI)

    def _need_parent(self, path: str | None, failed: str) -> None:
        if path is not None and not (self._directory / path.lstrip("/")).parent.is_dir():
            raise Refused(f"{failed}: {os.strerror(2)} (os error 2)")

    @staticmethod
    def _check_id(rest: list[str]) -> None:
        if not rest:
            raise Refused("The ID cannot be empty.")
        if not _ID.fullmatch(rest[0]):
            raise Refused("API Resource IDs can only contain alphanumeric characters and underscores.")
