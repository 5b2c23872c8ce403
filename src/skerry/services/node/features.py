"""What a node offers, by what its runtimes can do: the placer and packing choose nodes by these words."""

from collections.abc import Iterable

from skerry.ports.runtime import Capabilities

KVM = "kvm"


def features_of(capabilities: Capabilities, *, own: Iterable[str] = (), kvm: bool = False) -> tuple[str, ...]:
    """The isolation classes, the architectures that their engines run, `kvm`, and the operator's `own`; in order."""
    classes = dict(capabilities.classes)
    architectures = {facts.architecture for facts in classes.values()}
    return tuple(sorted({*own, *classes, *architectures, *((KVM,) if kvm else ())}))
