"""What a hostile program with raw sockets can do in its namespace, and what arrives of it elsewhere."""

import contextlib
import fcntl
import os
import select
import socket
import struct
import threading
import time
from pathlib import Path

from skerry.adapters.network.linux import devices, namespaces
from skerry.adapters.network.linux.addresses import INNER, INSTANCE_MAC, NODE_MAC
from skerry.ports.network import InstanceNetwork
from skerry.ports.sandbox import GuestNetwork

ETH_IP, ETH_IPV6, ETH_ARP = 0x0800, 0x86DD, 0x0806
ETH_ALL = 3
TCP, UDP, ICMP = 6, 17, 1
PING_S_MAX = 0.5
VNET_HEADER_BYTES = 10


class Sniffer:
    """Every frame that arrives at a device of a namespace."""

    def __init__(self, netns: Path, device: str) -> None:
        self._socket = namespaces.inside(netns, lambda: _packet_socket(device))

    def seen(self) -> list[bytes]:
        """Frames that came since the last call, those of this machine's own stack that leave excepted."""
        frames: list[bytes] = []
        while True:
            try:
                frame, address = self._socket.recvfrom(65535)
            except BlockingIOError:
                return frames
            if address[2] != socket.PACKET_OUTGOING:  # type: ignore[attr-defined]
                frames.append(frame)

    def destinations(self) -> set[str]:
        """Of the IPv4 packets that came since the last call."""
        return {socket.inet_ntoa(frame[30:34]) for frame in self.seen() if frame[12:14] == ETH_IP.to_bytes(2, "big")}

    def close(self) -> None:
        self._socket.close()


def _packet_socket(device: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL))
    opened.bind((device, ETH_ALL))
    opened.setblocking(False)
    return opened


def send_frames(frames: list[bytes], device: str = INNER) -> None:
    """From the namespace of the calling thread, past its own stack and filters."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        for frame in frames:
            with contextlib.suppress(OSError):  # the queue is full: that is a limit too
                sender.send(frame)


def ethernet(kind: int, payload: bytes, *, source: str = INSTANCE_MAC, target: str = NODE_MAC) -> bytes:
    return mac(target) + mac(source) + kind.to_bytes(2, "big") + payload


def ipv4(source: str, target: str, protocol: int, payload: bytes, *, fragment: int = 0, ident: int = 1) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        ident,
        fragment,
        64,
        protocol,
        0,
        socket.inet_aton(source),
        socket.inet_aton(target),
    )
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def udp(source: str, target: str, port: int, data: bytes = b"x", *, source_port: int = 4444) -> bytes:
    """An IPv4 packet."""
    return ipv4(source, target, UDP, struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data)


def syn(source: str, target: str, port: int, *, source_port: int) -> bytes:
    """An IPv4 packet."""
    segment = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 0x50, 0x02, 8192, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, TCP, len(segment))
    summed = segment[:16] + checksum(pseudo + segment).to_bytes(2, "big") + segment[18:]
    return ipv4(source, target, TCP, summed)


def arp_reply(address: str, *, of: str, to: str, to_mac: str) -> bytes:
    """A frame that claims `address` for the MAC `of`."""
    body = struct.pack("!HHBBH", 1, ETH_IP, 6, 4, 2) + mac(of) + socket.inet_aton(address) + mac(to_mac) + socket.inet_aton(to)
    return ethernet(ETH_ARP, body, source=of, target=to_mac)


def ping(target: str) -> bool:
    """From the calling thread's namespace: an echo reply of exactly that address comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as asking:
        head = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
        try:
            asking.sendto(head[:2] + checksum(head).to_bytes(2, "big") + head[4:], (target, 0))
        except OSError:
            return False
        deadline = time.monotonic() + PING_S_MAX
        while (left := deadline - time.monotonic()) > 0 and select.select([asking], [], [], left)[0]:
            packet, source = asking.recvfrom(1500)
            if packet[20] == 0 and source[0] == target:
                return True
    return False


def answers_udp(target: str, port: int) -> bool:
    """A datagram to it is answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(PING_S_MAX)
        with contextlib.suppress(OSError):
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            asking.sendto(b"hello", (target, port))
            return bool(asking.recvfrom(100))
    return False


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Guest:
    """A virtual machine's kernel, played by a namespace: its card is joined to the instance's tap, frame by frame.

    It sets itself up as `GuestNetwork` tells, as an engine's guest does.
    """

    def __init__(self, netns: Path, made: InstanceNetwork) -> None:
        self.netns = netns
        self._ended = False
        namespaces.make(netns)
        self._ends = (
            namespaces.inside(Path(made.netns), lambda: _open_tap(made.guest.device)),
            namespaces.inside(netns, lambda: _open_tap("eth0")),
        )
        namespaces.inside(netns, lambda: _set_up(made.guest))
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def send(self, frame: bytes) -> None:
        """As a guest that has taken its kernel over."""
        os.write(self._ends[0], bytes(VNET_HEADER_BYTES) + frame)

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        for end in self._ends:
            os.close(end)
        namespaces.remove(self.netns)

    def _pump(self) -> None:
        poller = select.poll()
        for end in self._ends:
            os.set_blocking(end, False)
            poller.register(end, select.POLLIN)
        other = dict(zip(self._ends, reversed(self._ends), strict=True))
        while not self._ended:
            for end, _ in poller.poll(20):
                with contextlib.suppress(OSError):
                    while frame := os.read(end, 1 << 17):
                        os.write(other[end], frame)


def _open_tap(name: str) -> int:
    opened = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(opened, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x2 | 0x1000 | 0x4000))
    return opened


def _set_up(guest: GuestNetwork) -> None:
    host, _, length = guest.address.partition("/")
    with devices.netlink() as route:
        index = devices.index_of(route, "eth0")
        route.link("set", index=1, state="up")
        route.link("set", index=index, state="up", address=guest.mac)
        route.addr("add", index=index, address=host, prefixlen=int(length))
        route.neigh("replace", dst=guest.gateway, lladdr=guest.gateway_mac, ifindex=index, state="permanent")
        route.route("add", dst="default", gateway=guest.gateway)
