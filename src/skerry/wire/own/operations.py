"""The port that this dialect calls; it lives with the other ports so that services can implement it."""

from skerry.ports.operations import Conflict, Invalid, NotFound, OperationError, Operations, Unavailable

__all__ = ["Conflict", "Invalid", "NotFound", "OperationError", "Operations", "Unavailable"]
