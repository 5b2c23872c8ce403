"""The network of instances on a node: a namespace each, a policy each, and a way in from the ingress.

Contract (suite: `skerry.testing.contracts.network`):

- `create` is idempotent by instance and gives a namespace that can reach whom its policy allows and nobody else; from the first
  moment on. IPv6 is as closed as IPv4. No instance can take another's address, or speak for the host. Call it again before each
  start of the program: gVisor takes the address away from the device.
- a program's own policy never opens what the node keeps shut: all that is not the public internet, but for what the operator
  opened. Connections that a narrower policy does not allow end with `change_policy`.
- an address that `publish` gave stays the instance's until `remove`, over restarts of the program and of the agent. Between
  `publish` and `open` connections to it are accepted and wait, and each `ring` says so; after `open` they go straight to the
  program, without passing through the agent, and so they do while the agent is away. `hold` is the way back (the program
  ended: connections wait again, those too that came to it in the moment between), `refuse` answers at once (HTTP: a 503 with
  the reason; else a reset).
- names are resolved by the node's own resolver, which answers what the policy allows and lets the addresses of allowed names
  through for as long as the answer is valid.
- `remove` is idempotent, safe without a create and after half of one: no namespace, device, rule, address or socket is left.
  `attach` takes over what an earlier process made for `known` and removes the rest.
- errors: `NetworkUnavailable`, with what this machine lacks and how to get it.
"""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

from skerry.core.types.ids import AccountId
from skerry.core.types.program import NetworkPolicy
from skerry.core.types.program import Protocol as TrafficProtocol
from skerry.kit.record import Record
from skerry.ports.sandbox import GuestNetwork


class NetworkError(Exception):
    """The family of this port's errors."""


class NetworkUnavailable(NetworkError):
    """This machine cannot; the text says why, and what to do."""


class NetworkWant(Record):
    """`device`: what the sandbox plugs into: a veth's end that the host's kernel configures ("kernel"), one that gVisor takes
    over ("gvisor"), or a tap for a virtual machine ("tap")."""

    instance: str
    account: AccountId
    device: Literal["kernel", "gvisor", "tap"] = "kernel"
    policy: NetworkPolicy = NetworkPolicy()


class InstanceNetwork(Record):
    """`netns` is a path for setns; `address` the instance's own, where the host alone reaches it."""

    netns: str
    address: str
    guest: GuestNetwork
    resolv_conf: str  # a file to be mounted at /etc/resolv.conf
    hosts: str  # and one at /etc/hosts


class Traffic(Record):
    """Bytes and refused packets since `create`. Through the published port alone, None where it is not known: `connections`
    that are open now, and `accepted` ones since `publish` (health checks are not among them: scale to zero goes by these)."""

    received_bytes: int = 0
    sent_bytes: int = 0
    refused_packets: int = 0
    connections: int | None = None
    accepted: int | None = None


class Network(Protocol):
    async def attach(self, known: frozenset[str]) -> None: ...

    async def create(self, want: NetworkWant) -> InstanceNetwork: ...

    async def publish(self, instance_id: str, *, port: int, protocol: TrafficProtocol, address: str | None = None) -> str:
        """host:port of this node where `port` of the instance answers; `address`: the one that it had before. Idempotent."""
        ...

    async def open(self, instance_id: str) -> None:
        """It is ready: who waits is let in, and all that come."""
        ...

    async def hold(self, instance_id: str) -> None: ...

    async def refuse(self, instance_id: str, reason: str) -> None: ...

    def rings(self) -> AsyncIterator[str]:
        """Ids of instances at whose address somebody waits; again for each until it is opened or refused."""
        ...

    def traffic(self, instance_id: str) -> Traffic:
        """Cheap; zeros for what is not there."""
        ...

    async def change_policy(self, instance_id: str, policy: NetworkPolicy) -> None:
        """In one step: no moment is without a policy."""
        ...

    async def remove(self, instance_id: str) -> None: ...

    async def aclose(self, *, remove_all: bool) -> None: ...
