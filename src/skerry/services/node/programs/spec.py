"""From a version, its image and its place to what an engine starts. Pure."""

from collections.abc import Mapping

from skerry.core.types.app import SecretBinding, TextBinding, Version
from skerry.core.types.program import Program
from skerry.ports.images import ImageConfig
from skerry.ports.network import InstanceNetwork
from skerry.ports.rootfs import Identity
from skerry.ports.sandbox import Mount, SandboxFile, SandboxLimits, SandboxSpec
from skerry.services.node.programs.records import Kept
from skerry.services.node.programs.settings import Ground

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOST_NAME_CHARS_MAX = 63


class BadProgram(Exception):
    """What is asked cannot be run, now or later; for its deployer."""


def argv_of(program: Program, config: ImageConfig) -> tuple[str, ...]:
    """Raises `BadProgram` when neither says what to run."""
    if program.command is not None:
        argv = (*program.command, *(program.args or ()))
    else:
        argv = (*config.entrypoint, *(config.command if program.args is None else program.args))
    if not argv or not argv[0]:
        raise BadProgram("nothing says what to run: the image has no entrypoint and no command, and the app gives none")
    return argv


def environment_of(kept: Kept, config: ImageConfig, place: Mapping[str, str], identity: Identity) -> dict[str, str]:
    """The image's, over it the app's bindings, over them what the platform says. Raises `BadProgram`."""
    version, program = kept.instance.version, kept.program()
    environment = {"PATH": PATH, "HOME": identity.home}
    for entry in config.env:
        name, _, value = entry.partition("=")
        environment[name] = value
    for binding in version.bindings if version.worker is None else ():  # a Worker has them in its configuration
        if not isinstance(binding, TextBinding | SecretBinding):
            raise BadProgram(f"binding {binding.name} is not for programs: their bindings are text and secrets")
        environment[binding.name] = binding.text
    if program.port is not None:
        environment["PORT"] = str(program.port)
    return {**environment, **place}


def place_of(ground: Ground, kept: Kept) -> dict[str, str]:
    version = kept.instance.version
    return {
        "SKERRY_SITE": ground.site,
        "SKERRY_NODE": ground.node,
        "SKERRY_APP": version.app,
        "SKERRY_VERSION": version.id,
        "SKERRY_INSTANCE": kept.instance.id,
    }


SHARES_PER_MILLICORE = 40
SHARES_LEAST = 16_384  # as a worker; of less the idle groups of a node, which weigh 3 each, would take a part that is felt


def limits_of(kept: Kept) -> SandboxLimits:
    if kept.limits is not None:
        return kept.limits
    wanted = kept.instance.version.limits
    return SandboxLimits(
        memory_mib_max=wanted.memory_mib_max,
        cpu_millicores_max=wanted.cpu_millicores_max,
        cpu_shares=max(SHARES_LEAST, wanted.reserve.cpu_millicores * SHARES_PER_MILLICORE),
        pids_max=kept.program().pids_max,
    )


def sandbox_spec(
    ground: Ground,
    kept: Kept,
    config: ImageConfig,
    network: InstanceNetwork,
    identity: Identity,
    *,
    rootfs: str,
    disk: str | None,
    files: tuple[SandboxFile, ...] = (),
) -> SandboxSpec:
    """`files` come beside the program's own. Raises `BadProgram`."""
    program, version = kept.program(), kept.instance.version
    sockets = ground.walled.mounts(kept.instance)
    return SandboxSpec(
        id=kept.instance.id,
        rootfs=rootfs,
        disk=disk,
        argv=argv_of(program, config),
        env=environment_of(kept, config, place_of(ground, kept), identity),
        limits=limits_of(kept),
        netns=network.netns,
        network=network.guest,
        working_dir=program.working_dir or config.working_dir or "/",
        uid=identity.uid,
        gid=identity.gid,
        groups=identity.groups,
        hostname=host_name(version, kept.instance.id),
        read_only=program.read_only,
        writable_mib=program.writable_mib,
        mounts=(
            Mount(source=network.resolv_conf, target="/etc/resolv.conf"),
            Mount(source=network.hosts, target="/etc/hosts"),
            *sockets,
        ),
        host_sockets=bool(sockets),
        files=(*files, *(SandboxFile(path=file.path, content=file.text.encode(), mode=file.mode) for file in program.files)),
        log=ground.files.log_path(kept.instance.id),
        log_bytes_max=ground.settings.log_bytes_max,
        stop_signal=config.stop_signal,
    )


def host_name(version: Version, instance_id: str) -> str:
    return f"{version.app[: HOST_NAME_CHARS_MAX - 9]}-{instance_id[:8]}"
