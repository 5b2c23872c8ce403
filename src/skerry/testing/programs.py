"""Versions of programs for tests."""

from skerry.core.types.app import Binding, Limits, Version
from skerry.core.types.ids import AccountId, AppName, Digest, InstanceId, VersionId
from skerry.core.types.program import Image, IsolationClass, Program
from skerry.core.types.slices import NodeInstance
from skerry.kit.hashing import content_digest, stable_id


def image(name: str, architecture: str = "amd64") -> Image:
    """One that no blob stands behind."""
    digest = Digest(content_digest(name.encode()))
    return Image(name=name, manifest=digest, config=digest, layers=(), architecture=architecture)


def program_version(
    name: str,
    program: Program | None = None,
    *,
    isolation: IsolationClass = "container",
    bindings: tuple[Binding, ...] = (),
    limits: Limits | None = None,
) -> Version:
    """Of an app `name`; by default one that listens on 8080."""
    return Version(
        id=VersionId(stable_id("version", name)),
        account=AccountId("0" * 32),
        app=AppName(name),
        number=1,
        created_ms=1_700_000_000_000,
        digest=Digest("0" * 64),
        compatibility_date="2026-01-01",
        program=program or Program(image=image(name), port=8080),
        isolation=isolation,
        bindings=bindings,
        limits=limits or Limits(),
    )


def program_instance(
    name: str,
    program: Program | None = None,
    *,
    isolation: IsolationClass = "container",
    bindings: tuple[Binding, ...] = (),
) -> NodeInstance:
    version = program_version(name, program, isolation=isolation, bindings=bindings)
    return NodeInstance(id=InstanceId(stable_id("instance", name, version.id)), version=version)
