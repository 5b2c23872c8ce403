"""Why `skerry up` or `skerry down` does not go on."""


class UpError(Exception):
    """For people: `str` says what is wrong, `hint` what to do next, `code` is the exit status (1: state, 2: usage)."""

    def __init__(self, message: str, *, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code
