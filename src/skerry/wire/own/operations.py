"""The port that this dialect calls; it lives with the other ports so that services can implement it."""

from skerry.ports.operations import Conflict, NotFound, OperationError, Operations, Unavailable

__all__ = ["Conflict", "NotFound", "OperationError", "Operations", "Unavailable"]
