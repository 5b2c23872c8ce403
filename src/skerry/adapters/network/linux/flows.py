"""Connections as the kernel tracks them, of the network namespace that the calling thread is in."""

import errno
import socket
from typing import Any

IPS_ASSURED = 1 << 2  # both have spoken


def forget_unanswered(published: str) -> None:
    """Of connections to `host:port`, those that nobody has taken yet: their next packet finds its way anew.

    The kernel leads the packets of a connection where it led the first one. A first packet that came in the moment in which
    a program died would else be repeated to where nobody is, however soon connections are taken again.
    """
    from pyroute2 import NFCTSocket
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    host, _, port = published.rpartition(":")
    tuples: Any = NFCTAttrTuple
    wanted = tuples(daddr=host, proto=socket.IPPROTO_TCP, dport=int(port))
    tracked: Any = NFCTSocket()
    try:
        for entry in tuple(tracked.dump(tuple_orig=wanted)):
            if entry.get_attr("CTA_STATUS", 0) & IPS_ASSURED:
                continue
            try:
                tracked.entry("del", tuple_orig=tuples.from_netlink(socket.AF_INET, entry.get_attr("CTA_TUPLE_ORIG")))
            except NetlinkError as error:
                if error.code != errno.ENOENT:  # it was answered or given up meanwhile
                    raise
    finally:
        tracked.close()
