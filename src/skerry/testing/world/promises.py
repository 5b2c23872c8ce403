"""The promises of docs/architecture.md by number, and how a broken one is told."""

from skerry.kit.record import Record

PROMISES: dict[int, str] = {
    1: "no node is ever asked for more than it has; no reservation is sold twice",
    2: "an instance runs only where its policy allows",
    3: "one writer, across partitions and failover, fenced by generation",
    4: "traffic goes only to instances that passed their health check; a healthy copy anywhere means no error",
    5: "a rollout stops by itself when the new version is worse",
    6: "a generation never goes back; a stale executor changes nothing",
    7: "an acknowledged write survives",
    8: "every rejection has a reason that a person can read",
    9: "after faults end the world converges, and nothing is left behind",
    10: "one account never reads, writes or reaches another's",
}
PLANE = 0
"""No promise by number: a plane did what none should (it ended by itself, or answered with a fault)."""


class Violation(Record):
    """`promise`: its number, or `PLANE`."""

    at_ms: int
    promise: int
    what: str

    def __str__(self) -> str:
        return f"at {self.at_ms} ms: {title(self.promise)}: {self.what}"


def title(promise: int) -> str:
    return f"promise {promise} ({PROMISES[promise]})" if promise else "a plane failed"
