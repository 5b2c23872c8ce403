"""Which monitor runs microVMs, and what is said of why."""

import pytest

from skerry.apps.microvm_engine import choose
from skerry.ports.sandbox import EngineUnavailable

NOT_THERE, EMULATED = "firecracker: not installed", "KVM emulates a guest's kernel here"


@pytest.mark.parametrize(
    ("wish", "firecracker", "virtualization", "engine", "why"),
    [
        ("auto", "", "", "firecracker", "it is installed, and KVM runs its guests"),
        ("auto", NOT_THERE, "", "qemu", "firecracker: not installed"),
        ("auto", "", EMULATED, "qemu", "Firecracker needs hardware virtualization: KVM emulates a guest's kernel here"),
        ("auto", NOT_THERE, EMULATED, "qemu", "firecracker: not installed"),
        ("firecracker", "", "", "firecracker", "the operator chose it"),
        ("qemu", "", "", "qemu", "the operator chose it"),
        ("qemu", NOT_THERE, EMULATED, "qemu", "the operator chose it"),
    ],
)
def test_firecracker_where_it_runs_unless_the_operator_says_otherwise(
    wish: str, firecracker: str, virtualization: str, engine: str, why: str
) -> None:
    found = choose(wish, firecracker=firecracker, virtualization=virtualization)  # pyright: ignore[reportArgumentType]
    assert (found.engine, found.why) == (engine, why)


@pytest.mark.parametrize(("firecracker", "virtualization"), [(NOT_THERE, ""), ("", EMULATED), (NOT_THERE, EMULATED)])
def test_another_engine_is_not_what_was_asked_for(firecracker: str, virtualization: str) -> None:
    with pytest.raises(EngineUnavailable, match="--microvm-engine auto") as caught:
        choose("firecracker", firecracker=firecracker, virtualization=virtualization)
    assert (firecracker or virtualization) in str(caught.value)
