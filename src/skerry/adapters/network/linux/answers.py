"""DNS as an instance may have it: which questions are asked for it, and what of an answer it gets. Pure; the wire is dnspython's.

- a name that its policy does not allow does not exist for it; IPv6 addresses never do.
- an address that the node keeps shut is taken out of every answer: a public name cannot be bound to a private address.
"""

import ipaddress
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from skerry.core.policy.reach import Reach, may_ask, permits
from skerry.kit.record import Record

UDP_BYTES_MIN, UDP_BYTES_MAX = 512, 1232  # what any client takes, what any network carries in one piece
TTL_S_MAX = 3600  # a name that moves is seen to have moved by then
ADDRESSES_MAX = 32  # of one answer that are let through
GRACE_S = 60  # so much longer than its answer an address is let through: clients connect later than they ask
PLAIN_TYPES = frozenset(
    dns.rdatatype.from_text(text)
    for text in ("A", "AAAA", "CNAME", "NS", "SOA", "PTR", "MX", "SRV", "NAPTR", "CAA", "DS", "HTTPS", "SVCB")
)


class Answer(Record):
    """`addresses` are let through for `valid_s`."""

    message: dns.message.Message
    addresses: tuple[str, ...] = ()
    valid_s: int = 0


def read_query(data: bytes) -> dns.message.Message | None:
    """None for what is not answered at all: no query, or garbage."""
    try:
        query = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError):
        return None
    return None if query.flags & dns.flags.QR else query


def answer_at_once(query: dns.message.Message, reach: Reach, operator: tuple[str, ...]) -> dns.message.Message | None:
    """Without asking anybody; None: it is to be asked."""
    if query.opcode() != dns.opcode.QUERY:
        return refusal(query, dns.rcode.NOTIMP)
    if len(query.question) != 1 or query.question[0].rdclass != dns.rdataclass.IN:
        return refusal(query, dns.rcode.REFUSED)
    question = query.question[0]
    if question.rdtype == dns.rdatatype.ANY or dns.rdatatype.is_metatype(question.rdtype):
        return refusal(query, dns.rcode.NOTIMP)
    if not may_ask(reach, question.name.to_text()):
        return refusal(query, dns.rcode.NXDOMAIN, "not among the names that network.allow has")
    if _is_shut_reverse(question.name, operator):
        return refusal(query, dns.rcode.NXDOMAIN)
    return refusal(query, dns.rcode.NOERROR) if question.rdtype == dns.rdatatype.AAAA else None


def refusal(query: dns.message.Message, code: dns.rcode.Rcode, why: str = "") -> dns.message.Message:
    """An answer with nothing in it."""
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(code)
    if why and query.edns >= 0:
        response.use_edns(options=[dns.edns.EDEOption(dns.edns.EDECode.PROHIBITED, why)])
    return response


def question_upstream(query: dns.message.Message) -> dns.message.Message:
    """The same question with nothing of the client's but that."""
    asked = query.question[0]
    return dns.message.make_query(asked.name, asked.rdtype, use_edns=0, payload=UDP_BYTES_MAX)


def answer_from(query: dns.message.Message, reply: dns.message.Message, operator: tuple[str, ...]) -> Answer:
    """What the instance gets of an upstream's reply."""
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(reply.rcode())
    response.answer = [kept for rrset in reply.answer if (kept := _permitted(rrset, operator)) is not None]
    response.authority = [rrset for rrset in reply.authority if rrset.rdtype == dns.rdatatype.SOA]
    addresses, ttl_s = _addresses_of(query.question[0].name, response.answer)
    return Answer(message=response, addresses=addresses, valid_s=ttl_s + GRACE_S)


def to_wire(message: dns.message.Message, query: dns.message.Message, *, udp: bool) -> bytes:
    """Cut to what the client takes: then it is told to come again over TCP."""
    if not udp:
        return message.to_wire(max_size=65535)
    bytes_max = min(max(query.payload if query.edns >= 0 else UDP_BYTES_MIN, UDP_BYTES_MIN), UDP_BYTES_MAX)
    try:
        return message.to_wire(max_size=bytes_max)
    except dns.exception.TooBig:
        short = dns.message.make_response(query, recursion_available=True)
        short.flags |= dns.flags.TC
        return short.to_wire(max_size=bytes_max)


def _permitted(rrset: dns.rrset.RRset, operator: tuple[str, ...]) -> dns.rrset.RRset | None:
    if rrset.rdtype == dns.rdatatype.AAAA:
        return None
    ttl_s = min(rrset.ttl, TTL_S_MAX)
    if rrset.rdtype != dns.rdatatype.A:
        rrset.ttl = ttl_s
        return rrset
    kept = [text for text in _texts(rrset) if permits(operator, text)]
    return dns.rrset.from_text_list(rrset.name, ttl_s, rrset.rdclass, rrset.rdtype, kept) if kept else None


def _texts(rrset: dns.rrset.RRset) -> list[str]:
    rdatas: list[Any] = list(rrset)  # the library's own types lack them
    return [rdata.to_text() for rdata in rdatas]


def _addresses_of(name: dns.name.Name, answer: list[dns.rrset.RRset]) -> tuple[tuple[str, ...], int]:
    """(those that the name leads to, over its aliases; the shortest time to live)."""
    ttl_s = TTL_S_MAX
    aliases = {rrset.name: rrset for rrset in answer if rrset.rdtype == dns.rdatatype.CNAME}
    addresses = {rrset.name: rrset for rrset in answer if rrset.rdtype == dns.rdatatype.A}
    for _ in range(len(aliases) + 1):
        if name in addresses:
            return tuple(_texts(addresses[name])[:ADDRESSES_MAX]), min(ttl_s, addresses[name].ttl)
        if name not in aliases:
            break
        ttl_s = min(ttl_s, aliases[name].ttl)
        name = dns.name.from_text(_texts(aliases[name])[0])
    return (), 0


def _is_shut_reverse(name: dns.name.Name, operator: tuple[str, ...]) -> bool:
    """Who has a private address is private too."""
    try:
        address = ipaddress.ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return False
    return not isinstance(address, ipaddress.IPv4Address) or not permits(operator, str(address))
