"""A change of a scale, field by field: what is not named stays, null takes the default back."""

from collections.abc import Mapping

import msgspec

from skerry.core.policy.scale_fields import quoted
from skerry.core.types.app import Scale

FIELDS = tuple(field.name for field in msgspec.structs.fields(Scale))


def changed_scale(scale: Scale, changes: Mapping[str, object]) -> Scale:
    """`changes`: parsed JSON, by field. Types are checked, sense is not (`scale_faults`). Raises `ValueError` with the field."""
    unknown = next((name for name in sorted(changes) if name not in FIELDS), None)
    if unknown is not None:
        raise ValueError(f"{quoted(unknown)} is no field of a scale; the fields are {', '.join(FIELDS)}")
    merged = {**{name: getattr(scale, name) for name in FIELDS}, **changes}
    try:
        return msgspec.convert({name: value for name, value in merged.items() if value is not None}, Scale)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$.", "`")) from None


def not_default(scale: Scale) -> tuple[str, ...]:
    """The fields that somebody has set to something."""
    plain = Scale()
    return tuple(name for name in FIELDS if getattr(scale, name) != getattr(plain, name))
