"""What of an image's configuration decides how it runs, read with limits: its author may be anybody."""

import re

import msgspec

from skerry.adapters.imagesources.documents import parse
from skerry.ports.images import BadImage, ImageConfig
from skerry.ports.imagesources import BadSource

WORDS_MAX = 1000
BYTES_MAX = 256 << 10  # of all words and variables; the kernel takes a page each, and 2 MiB at most
SIGNAL_DEFAULT = "SIGTERM"
_PORT = re.compile(r"(\d{1,5})(/tcp)?")


class _Config(msgspec.Struct, frozen=True, rename="pascal"):
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    exposed_ports: dict[str, object] | None = None


class _Document(msgspec.Struct, frozen=True):
    architecture: str = ""
    config: _Config | None = None


def read_configuration(data: bytes) -> ImageConfig:
    """Raises `BadImage`."""
    try:
        document = parse(data, _Document, what="image configuration")
    except BadSource as error:
        raise BadImage(str(error)) from error
    found = document.config or _Config()
    words = [*(found.entrypoint or ()), *(found.cmd or ()), *(found.env or ()), found.working_dir, found.user]
    if len(words) > WORDS_MAX or sum(len(word) for word in words) > BYTES_MAX or any("\0" in word for word in words):
        raise BadImage(f"image configuration: more than {WORDS_MAX} words or {BYTES_MAX >> 10} KiB of them")
    ports = [_PORT.fullmatch(name) for name in sorted(found.exposed_ports or {})]
    return ImageConfig(
        entrypoint=found.entrypoint or (),
        command=found.cmd or (),
        env=tuple(variable for variable in found.env or () if "=" in variable),
        working_dir=found.working_dir or "/",
        user=found.user,
        stop_signal=_signal_name(found.stop_signal),
        exposed_ports=tuple(sorted({int(port.group(1)) for port in ports if port})),
        architecture=document.architecture,
    )


def _signal_name(text: str) -> str:
    """As `signal.Signals` calls it: images have "15", "TERM" and "SIGTERM"."""
    import signal

    if not text:
        return SIGNAL_DEFAULT
    try:
        return signal.Signals(int(text)).name if text.isdigit() else signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"].name
    except (ValueError, KeyError):
        return SIGNAL_DEFAULT
