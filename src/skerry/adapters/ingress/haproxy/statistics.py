"""Pure: HAProxy's statistics as rows."""


def stat_rows(answer: str) -> list[dict[str, str]]:
    """Of `show stat`: CSV with a header line that starts with "# ". Without one no row has a name that anybody asks for."""
    head, _, body = answer.lstrip("\n").removeprefix("# ").partition("\n")
    names = head.split(",")
    return [dict(zip(names, line.split(","), strict=False)) for line in body.splitlines() if line]
