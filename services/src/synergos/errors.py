"""Errors that a caller is meant to read: each carries the HTTP status that the REST contract assigns to it."""


class SynergosError(Exception):
    """A failure with a message for the user and the HTTP status that reports it.

    Args:
        message: what was wrong and, where it helps, what would be right.
    """

    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotFound(SynergosError):
    """A record, project or trained model that does not exist."""

    status = 404


class FeatureDrift(SynergosError):
    """A prediction set whose columns no longer fit the alignment that the model was trained with."""

    status = 403


class Forbidden(SynergosError):
    """Something that this mode of operation does not offer."""

    status = 403


class StillProcessing(SynergosError):
    """A worker that has not finished loading the polled data."""

    status = 406


class Busy(SynergosError):
    """A request that cannot be served while a job is running."""

    status = 409


class Cancelled(SynergosError):
    """Work that was called off."""

    status = 409


class Invalid(SynergosError):
    """A payload, setting or data set that cannot be used; the message says why and what would be right."""

    status = 417


class GridFailure(SynergosError):
    """A worker that could not be reached or that failed; the message names the participant."""

    status = 417


class Unreachable(GridFailure):
    """A worker that does not answer, or no longer does."""
