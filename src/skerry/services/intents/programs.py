"""The use case of deploying a program: an image that is here already, and how it is to be run."""

from typing import Any, final

import msgspec

from skerry.core.policy.isolation import OVERHEAD_MIB
from skerry.core.policy.program_fields import program_faults
from skerry.core.types.app import App, Binding, Limits, Scale, SecretBinding, TextBinding, Version
from skerry.core.types.ids import AccountId, AppName, Digest
from skerry.core.types.program import (
    Health,
    IsolationClass,
    NetworkPolicy,
    Program,
    RestartPolicy,
    SecretFile,
)
from skerry.core.types.program import Protocol as TrafficProtocol
from skerry.core.types.public_port import PortRange
from skerry.core.types.resources import Resources
from skerry.kit.record import Record
from skerry.services.intents import draft, limits
from skerry.services.intents.commits import Commits
from skerry.services.intents.errors import IntentError, Refusal
from skerry.services.intents.images import Images
from skerry.services.intents.public_ports import Claim, PublicPorts
from skerry.services.intents.repository import AppState, Held, Repository
from skerry.services.intents.scales import Scales

CPU_MILLICORES_DEFAULT, MEMORY_MIB_DEFAULT = 250, 256
CPU_BURST_MILLICORES = 1000  # an instance may use a whole core, when it is free, whatever it reserves


class ProgramUpload(Record):
    """A new version as its author describes it, of `Program`'s fields and its surroundings.

    `public_port` is the app's, with `protocol` "tcp": the port of every city that leads to it; None: the one that it has, or any.

    `cpu_millicores` and `memory_mib` are reserved for each instance; the memory is its limit too. `env` and `secrets` are all
    of them; with `keep_secrets`, secrets of the version before that are not named stay.
    """

    image: Digest  # of the manifest
    image_name: str = ""
    isolation: IsolationClass = "container"
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    working_dir: str | None = None
    user: str | None = None
    port: int | None = None
    protocol: TrafficProtocol = "http"
    public_port: int | None = None
    health: Health | None = None
    restart: RestartPolicy = "always"
    stop_grace_ms: int = 10_000
    writable_mib: int = 256
    read_only: bool = False
    pids_max: int = 512
    files: tuple[SecretFile, ...] = ()
    network: NetworkPolicy = NetworkPolicy()
    asleep_after_s: int | None = None
    cpu_millicores: int = CPU_MILLICORES_DEFAULT
    memory_mib: int = MEMORY_MIB_DEFAULT
    env: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    secrets: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    keep_secrets: bool = True
    scale: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    message: str = ""
    tag: str = ""


PROGRAM_FIELDS = tuple(field.name for field in msgspec.structs.fields(Program) if field.name != "image")


@final
class Programs:
    """Every method raises `IntentError` when it refuses, and the ports' `Unavailable` when the platform cannot."""

    def __init__(
        self, images: Images, repository: Repository, commits: Commits, scales: Scales, *, ports: tuple[PortRange, ...]
    ) -> None:
        self.images = images
        self._ports = PublicPorts(repository, ports)
        self._repository = repository
        self._commits = commits
        self._scales = scales

    async def deploy(
        self, account: AccountId, name: str, upload: ProgramUpload, *, source: str, author: str, deploy: bool = True
    ) -> Version:
        """A new version that (with `deploy`) takes all traffic; makes the app if it is not there. One transaction."""
        app_name = draft.check_app_name(name)
        draft.check_texts(upload.message, upload.tag)
        program, reserve = await self._program(account, upload)

        async def attempt() -> Version:
            held = await self._repository.held(account, app_name)
            state = None
            if held.app is None:
                await self._commits.make_room(account, app_name)
            else:
                state = await self._repository.state(account, app_name)
                held = Held(app=state.app, revision=state.revision)
                _check_kind(state, program)
            before = held.app.scale if held.app else Scale()
            scale = await self._scales.changed(before, upload.scale)
            version = draft.sealed(
                Version(
                    id=self._repository.new_version_id(),
                    account=account,
                    app=app_name,
                    number=held.app.next_number if held.app else 1,
                    created_ms=self._commits.after(held.app),
                    digest=Digest(""),
                    compatibility_date="",
                    program=program,
                    isolation=upload.isolation,
                    bindings=_bindings(upload, state),
                    limits=reserve,
                    source=source,
                    author=author,
                    message=upload.message,
                    tag=upload.tag,
                )
            )
            changes = {"scale": scale} if deploy else None
            claim = await self._claim(account, app_name, held.app, program, upload.public_port, deploy=deploy)
            await self._commits.version(held, state, version, deploy=deploy, changes=changes, claim=claim)
            return version

        return await self._repository.until_committed(attempt)

    async def _claim(
        self, account: AccountId, name: AppName, app: App | None, program: Program, wish: int | None, *, deploy: bool
    ) -> Claim | None:
        """The port that the app has from then on; None for one that speaks HTTP or nothing."""
        if program.protocol != "tcp":
            if wish is not None:
                raise draft.invalid("A public port is for programs that speak TCP; HTTP is found by its host name.")
            return None
        if not deploy and app is not None and app.public_port is not None and wish not in {None, app.public_port}:
            raise draft.invalid("The public port changes with what is deployed, not with a version that only waits.")
        return await self._ports.claim(account, name, app, wish)

    async def _program(self, account: AccountId, upload: ProgramUpload) -> tuple[Program, Limits]:
        name = upload.image_name or upload.image
        if len(name) > limits.IMAGE_NAME_CHARS_MAX or not name.isprintable():
            raise draft.invalid(f"The image's name has more than {limits.IMAGE_NAME_CHARS_MAX} characters, or unprintable ones.")
        image = await self.images.image(account, upload.image, name)
        program = Program(image=image, **{field: getattr(upload, field) for field in PROGRAM_FIELDS})
        limits_ = program_limits(upload)
        faults = program_faults(program, upload.isolation, limits_)
        if faults:
            raise draft.invalid(f"The program cannot be run: {'; '.join(faults)}.")
        return program, limits_


def program_limits(upload: ProgramUpload) -> Limits:
    """Its memory is reserved whole, and its wall's; of the CPU it may use more than it reserves, when nobody needs it."""
    return Limits(
        memory_mib_max=upload.memory_mib,
        cpu_millicores_max=max(upload.cpu_millicores, CPU_BURST_MILLICORES),
        reserve=Resources(
            cpu_millicores=max(0, upload.cpu_millicores),
            memory_mib=max(0, upload.memory_mib) + OVERHEAD_MIB[upload.isolation],
            disk_mib=max(0, upload.writable_mib),
        ),
    )


def _check_kind(state: AppState, program: Program) -> None:
    latest = state.latest
    if latest is not None and latest.program is not None and latest.program.protocol != program.protocol:
        was, asked = latest.program.protocol, program.protocol
        raise draft.invalid(f"{state.app.name} speaks {was}, not {asked}; deploy this under another name, or delete it first.")
    if latest is not None and latest.program is None:
        raise IntentError(
            Refusal.INVALID, f"{state.app.name} is a Worker; deploy the image under another name, or delete it first."
        )


def _bindings(upload: ProgramUpload, state: AppState | None) -> tuple[Binding, ...]:
    """The environment, in name order."""
    both = sorted(upload.env.keys() & upload.secrets.keys())
    if both:
        raise draft.invalid(f"{both[0][:60]} is both a variable and a secret.")
    found: dict[str, Binding] = {name: TextBinding(name=name, text=text) for name, text in upload.env.items()}
    found |= {name: SecretBinding(name=name, text=text) for name, text in upload.secrets.items()}
    latest = state.latest if state is not None else None
    if upload.keep_secrets and latest is not None:
        kept = {binding.name: binding for binding in latest.bindings if isinstance(binding, SecretBinding)}
        found = {**kept, **found}
    for name, binding in found.items():
        if "=" in name or "\0" in getattr(binding, "text", ""):
            raise draft.invalid(f"The variable {name[:60]!r} cannot be put into an environment.")
    bindings = tuple(found[name] for name in sorted(found))
    draft.check_bindings(bindings)
    return bindings
