"""What a replay refuses, each under its own name."""


class SignatureMismatch(ValueError):
    """Data is not what the signature of a table says."""


class Expired(ValueError):
    """A reference to steps that their writer no longer keeps."""


class Broken(ValueError):
    """A checkpoint or journal that is not whole."""


class RateLimited(TimeoutError):
    """A call was blocked by a rate limiter until its timeout; the message says why, and what would free it."""


class WrongVersion(ValueError):
    """A client and a replay whose versions do not know each other's calls."""


class Unavailable(ConnectionError):
    """The actor of a replay is dead, or was when it was called: whether a call under way was done is not known."""
