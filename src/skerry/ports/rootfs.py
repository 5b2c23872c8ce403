"""What a node reads of a program's root file system before anything of the program runs.

Contract: links inside lead nowhere but inside; files of absurd size are not read. `Identity` of "uid", "uid:gid", "name",
"name:group" or "" (root) as OCI has it: a number needs no entry; without a group, a user's own and those that list them.
"""

from typing import Protocol

from skerry.kit.record import Record


class NoSuchUser(Exception):
    """The image has no such user or group; the text says which."""


class Identity(Record):
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


class RootFiles(Protocol):
    async def identity(self, rootfs: str, user: str) -> Identity:
        """Raises `NoSuchUser`."""
        ...
