"""Whether a program makes sense: what is wrong with its fields, in sentences for its author."""

import re
from collections.abc import Iterator

from skerry.core.policy.reach import policy_faults
from skerry.core.types.app import Limits
from skerry.core.types.program import ExecCheck, Health, HttpCheck, IsolationClass, Program, SecretFile

MEMORY_MIB_MIN: dict[IsolationClass, int] = {"container": 8, "gvisor": 32, "microvm": 96}
"""Of the program's own limit: a guest kernel needs so much before the program starts."""

MEMORY_MIB_MAX = 256 * 1024
CPU_MILLICORES_MIN, CPU_MILLICORES_MAX = 10, 64_000
WRITABLE_MIB_MAX = 64 * 1024
PIDS_MIN, PIDS_MAX = 8, 32_768
STOP_GRACE_MS_MAX = 300_000
ASLEEP_AFTER_S_MAX = 7 * 24 * 3600
WORDS_MAX, WORD_BYTES_MAX = 256, 32 * 1024  # of a command line
FILES_MAX, FILE_BYTES_MAX, PATH_BYTES_MAX = 32, 64 * 1024, 512
CHECK_MS_MIN, CHECK_MS_MAX = 100, 3_600_000

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")
_RESERVED = ("/proc", "/sys", "/dev")  # mounted over by every engine


def program_faults(program: Program, isolation: IsolationClass, limits: Limits) -> tuple[str, ...]:
    """Everything wrong with it; empty: valid."""
    return (
        *_resources(isolation, limits),
        *_numbers(program),
        *_command(program),
        *_port(program),
        *_health(program),
        *(fault for file in program.files for fault in _file(file)),
        *_files(program.files),
        *policy_faults(program.network),
    )


def _resources(isolation: IsolationClass, limits: Limits) -> Iterator[str]:
    if isolation == "sandbox":
        yield "isolation `sandbox` is for Workers; a program runs as container, gvisor or microvm"
        return
    least = MEMORY_MIB_MIN[isolation]
    if not least <= limits.memory_mib_max <= MEMORY_MIB_MAX:
        yield f"memory is {limits.memory_mib_max} MiB; a {isolation} has {least} to {MEMORY_MIB_MAX:,} MiB"
    if not CPU_MILLICORES_MIN <= limits.reserve.cpu_millicores <= CPU_MILLICORES_MAX:
        yield f"cpu is {limits.reserve.cpu_millicores} millicores; it is {CPU_MILLICORES_MIN} to {CPU_MILLICORES_MAX:,}"


def _numbers(program: Program) -> Iterator[str]:
    for field, value, least, most in (
        ("writable_mib", program.writable_mib, 1, WRITABLE_MIB_MAX),
        ("pids_max", program.pids_max, PIDS_MIN, PIDS_MAX),
        ("stop_grace_ms", program.stop_grace_ms, 0, STOP_GRACE_MS_MAX),
        ("asleep_after_s", program.asleep_after_s, 1, ASLEEP_AFTER_S_MAX),
    ):
        if value is not None and not least <= value <= most:
            yield f"{field} is {value}; it is {least} to {most:,}"


def _command(program: Program) -> Iterator[str]:
    for field, words in (("command", program.command), ("args", program.args)):
        yield from _words(field, words)
    if program.command is not None and not program.command:
        yield "command is empty: leave it out for the image's own"
    if program.working_dir is not None and not _is_clean(program.working_dir):
        yield f"working_dir {program.working_dir[:80]!r} is no absolute path"
    if program.user is not None and not _USER.fullmatch(program.user):
        yield f"user {program.user[:80]!r} is not of the form user or user:group"


def _words(field: str, words: tuple[str, ...] | None) -> Iterator[str]:
    if words is None:
        return
    if len(words) > WORDS_MAX or sum(len(word.encode()) for word in words) > WORD_BYTES_MAX:
        yield f"{field} has more than {WORDS_MAX} words or {WORD_BYTES_MAX:,} bytes"
    if any("\0" in word for word in words):
        yield f"{field} has a word with a NUL in it"


def _port(program: Program) -> Iterator[str]:
    if program.port is not None and not 1 <= program.port <= 65_535:
        yield f"port is {program.port}; it is 1 to 65,535"
    if program.protocol == "tcp" and program.port is None:
        yield "protocol tcp needs a port: the one that the program listens on"
    if program.port is None and program.asleep_after_s is not None:
        yield "asleep_after_s needs a port: nothing else wakes it"


def _health(program: Program) -> Iterator[str]:
    health = program.health
    if health is None:
        return
    yield from _health_times(health)
    check = health.check
    if isinstance(check, ExecCheck):
        if not check.command:
            yield "the health check's command is empty"
        yield from _words("the health check's command", check.command)
        return
    port = check.port or program.port
    if port is None or not 1 <= port <= 65_535:
        yield "the health check has no port, and the program neither"
    if isinstance(check, HttpCheck) and not (check.path.startswith("/") and check.path.isprintable() and len(check.path) <= 1024):
        yield f"the health check's path {check.path[:80]!r} does not start with a slash, or is too long"


def _health_times(health: Health) -> Iterator[str]:
    for field, value, least in (
        ("interval_ms", health.interval_ms, CHECK_MS_MIN),
        ("timeout_ms", health.timeout_ms, CHECK_MS_MIN),
        ("grace_ms", health.grace_ms, 0),
    ):
        if not least <= value <= CHECK_MS_MAX:
            yield f"health.{field} is {value}; it is {least} to {CHECK_MS_MAX:,}"
    if not 1 <= health.failures_max <= 100:
        yield f"health.failures_max is {health.failures_max}; it is 1 to 100"


def _file(file: SecretFile) -> Iterator[str]:
    path = file.path
    if not _is_clean(path) or path == "/" or any(path == top or path.startswith(f"{top}/") for top in _RESERVED):
        yield f"the file {path[:80]!r} is no absolute path, or lies in {', '.join(_RESERVED)}"
    if len(file.text.encode()) > FILE_BYTES_MAX:
        yield f"the file {path[:80]} has more than {FILE_BYTES_MAX:,} bytes"
    if not 0 <= file.mode <= 0o777:
        yield f"the file {path[:80]} has the mode {file.mode:o}; it is at most 777"


def _files(files: tuple[SecretFile, ...]) -> Iterator[str]:
    if len(files) > FILES_MAX:
        yield f"there are {len(files)} files; at most {FILES_MAX} are allowed"
    paths = [file.path for file in files]
    yield from (f"the file {path[:80]} is there twice" for path in sorted({path for path in paths if paths.count(path) > 1}))


def _is_clean(path: str) -> bool:
    """Absolute and normal, within a limit."""
    parts = path.split("/")[1:]
    return (
        path.startswith("/")
        and path.isprintable()
        and len(path.encode()) <= PATH_BYTES_MAX
        and (path == "/" or all(part not in ("", ".", "..") for part in parts))
    )
