"""The base of every record, and its JSON codec.

Records are frozen, keyword-only `msgspec.Struct`s that refuse unknown fields; they are
checked when decoded, at the border, and then trusted.
"""

from typing import TypeVar, dataclass_transform

import msgspec

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An immutable value. Change it with `msgspec.structs.replace`."""


_encoder = msgspec.json.Encoder(order="deterministic")
_decoders: dict[object, msgspec.json.Decoder[object]] = {}


def encode(value: object) -> bytes:
    """JSON with sorted keys: equal values give equal bytes, so bytes can be compared and hashed."""
    return _encoder.encode(value)


def decode(data: bytes, as_type: type[T]) -> T:
    """Decode and validate; raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
    decoder = _decoders.get(as_type)
    if decoder is None:
        decoder = _decoders[as_type] = msgspec.json.Decoder(as_type)  # type: ignore[assignment]
    return decoder.decode(data)  # type: ignore[return-value]
