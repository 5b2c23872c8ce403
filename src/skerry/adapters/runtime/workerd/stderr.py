"""From what workerd prints to what a deployer should read."""

import re

TEXT_MAX = 4000  # characters of an error that are kept: a stack, not a book
_SERVICE = re.compile(r"^service app: (.*)$", re.MULTILINE)
_RULES = re.compile(r"^service [\w.-]+: (?:Assets service \"[^\"]*\"'s config: )?(.*)", re.MULTILINE | re.DOTALL)
_NOISE = re.compile(r"^(Unable to find and open the program executable|workerd/|kj/|\*\*\* |stack: ).*$\n?", re.MULTILINE)

MEMORY_EXCEEDED = "Worker exceeded memory limit."
CPU_EXCEEDED = "Worker exceeded CPU time limit."
STARTUP_MEMORY_EXCEEDED = "Script startup exceeded memory limits."
STARTUP_CPU_EXCEEDED = "Script startup exceeded CPU time limit."


def rules_error(log: str) -> str | None:
    """The fault in settings of static assets that keeps them from being served; None if there is none."""
    found = _RULES.search(log)
    return found[1].strip()[:TEXT_MAX] if found else None


def startup_error(log: str) -> str | None:
    """The fault in the version itself that kept it from starting: message and stack; None if there is none.

    workerd prints `service app: <message>`, then stack lines that begin with two spaces.
    """
    first = _SERVICE.search(log)
    if first is None:
        return None
    lines: list[str] = []
    for line in log[first.start() :].splitlines():
        if line.startswith("service app: "):
            lines.append(line.removeprefix("service app: "))
        elif line.startswith("  "):
            lines.append("  " + line)
        elif lines and not line.strip():
            continue
        else:
            break
    return "\n".join(lines)[:TEXT_MAX]


def crash_reason(status: int | None, log: str, *, out_of_memory: bool) -> str:
    """Why a process that had started ended, in a sentence."""
    if out_of_memory:
        return MEMORY_EXCEEDED
    last = _NOISE.sub("", log).strip().rpartition("\n")[2][:300]
    if status is None:
        how = "ended while nobody watched"
    elif status < 0:
        how = f"killed by signal {-status}"
    else:
        how = f"exit status {status}"
    return f"process ended: {how}" + (f"; last line of its log: {last}" if last else "")
