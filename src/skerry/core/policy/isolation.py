"""What an isolation class asks of nodes, and what an instance in it takes beside its own limits."""

from skerry.core.types.app import Version
from skerry.core.types.program import IsolationClass

OVERHEAD_MIB: dict[IsolationClass, int] = {"sandbox": 0, "container": 4, "gvisor": 48, "microvm": 152}
"""Of the wall itself, reserved beside the program's memory: what engines say of themselves (`EngineFacts.overhead_mib`). A
microVM's is its guest's kernel and a monitor that translates instructions."""


def features_of(version: Version) -> tuple[str, ...]:
    """What nodes that run the version have to offer, whatever its app's scale asks besides: by name, in order."""
    if version.program is not None:
        return tuple(sorted({version.isolation, version.program.image.architecture}))
    return () if version.isolation == "sandbox" else (version.isolation,)


def needed_features(asked: tuple[str, ...], version: Version) -> tuple[str, ...]:
    """`asked` by the app, and what the version needs besides."""
    own = features_of(version)
    return asked if not own else tuple(sorted({*asked, *own}))
