"""nftables through its own library: commands in its language, each call one transaction.

with_table = Nft()                  # of the network namespace that the calling thread is in
with_table.run("add table inet x")  # all of it, or `NftError` and nothing
with_table.read("list tables")      # as JSON
"""

import ctypes
import functools
from typing import Any

import msgspec

from skerry.ports.network import NetworkError, NetworkUnavailable

_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON
_SONAME = "libnftables.so.1"


class NftError(NetworkError):
    """The kernel or the library refused; the text is theirs."""


class Nft:
    """One context. For one thread at a time; raises `NetworkUnavailable` where the library is missing."""

    def __init__(self) -> None:
        self._library = _library()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise NetworkUnavailable("nftables cannot be used: no netlink socket; run Skerry as root")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        error: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise NftError(f"nftables: {error.decode(errors='replace').strip()[:500]}")
        return output.decode(errors="replace")

    def read(self, command: str) -> list[dict[str, Any]]:
        """The objects that a `list` command answers with, each `{kind: its fields}`."""
        self._library.nft_ctx_output_set_flags(self._context, _JSON)
        try:
            text = self.run(command)
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)
        return msgspec.json.decode(text)["nftables"] if text.strip() else []

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_SONAME)
    except OSError as error:
        raise NetworkUnavailable("libnftables is not here: sudo apt-get install libnftables1") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_run_cmd_from_buffer.restype = ctypes.c_int
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    return library
