"""Pictures by address: only what the operator allows, at the address it was resolved to, and never elsewhere.

The name is resolved once; every address must be allowed, and the connection goes to one of them, so that a name which
resolves otherwise a moment later reaches nothing. Redirects are not followed.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

Connect = Callable[[str, str, int, float], http.client.HTTPConnection]
"""(address, host, port, timeout in seconds) to a connection that is not open yet."""
_PIECE_BYTES = 2**16


class _Pinned(http.client.HTTPSConnection):
    """To an address that was looked up before, under the name that its certificate must bear."""

    def __init__(self, address: str, host: str, port: int, timeout_s: float) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(host, port, timeout=timeout_s, context=self._tls)
        self._address = address

    def connect(self) -> None:
        """Open it."""
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


@dataclass(frozen=True)
class Fetcher:
    """Gets files from allowed addresses; call it with one."""

    allowed: tuple[str, ...]
    """Prefixes such as "https://pictures.example.org/films/"."""
    max_bytes: int
    timeout_s: float = 30.0
    may_be_private: bool = False
    """Whether allowed names may stand for loopback and private addresses."""
    resolve: Callable[[str, int], Sequence[str]] = lambda host, port: _resolved(host, port)
    connect: Connect = _Pinned

    def __call__(self, url: str) -> bytes:
        """The bytes at an address.

        Raises:
            ValueError: it is not allowed, redirects, cannot be reached, or holds too much.
        """
        parts = _split(url)
        if not any(_is_under(parts, _split(prefix)) for prefix in self.allowed):
            raise ValueError("the address is none that this server may ask; send the picture as a data URL")
        host, port = parts.hostname or "", parts.port or 443
        addresses = self.resolve(host, port)
        if not self.may_be_private and not all(ipaddress.ip_address(address).is_global for address in addresses):
            raise ValueError("the address is of this machine or a private network, and nothing is fetched from there")
        deadline = time.monotonic() + self.timeout_s
        connection = self.connect(addresses[0], host, port, self.timeout_s)
        try:
            connection.request("GET", f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}")
            response = connection.getresponse()
            if response.status != 200:
                redirects = 300 <= response.status < 400
                what = "redirects, which is not followed" if redirects else f"answers HTTP {response.status}"
                raise ValueError(f"the address {what}; send the picture as a data URL")
            return self._read(response, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"the address cannot be read ({type(error).__name__})") from error
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        data = bytearray()
        while piece := response.read1(_PIECE_BYTES):
            data += piece
            if len(data) > self.max_bytes:
                raise ValueError(f"the address holds more than {self.max_bytes >> 20} MB")
            if time.monotonic() > deadline:
                raise ValueError(f"the address gave no whole file within {self.timeout_s:g} s")
        return bytes(data)


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that would allow more than it seems to.

    Raises:
        ValueError: it is no https address with a host.
    """
    parts = _split(prefix)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.username:
        raise ValueError(f"--url-allow {prefix}: expected an address such as https://pictures.example.org/films/")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("the address is none; send the picture as a data URL") from None
    if any(ord(character) <= 32 or ord(character) == 127 or character == "\\" for character in url):
        raise ValueError("the address holds blanks or control characters")
    return parts


def _is_under(parts: SplitResult, prefix: SplitResult) -> bool:
    """Whether an address is of a prefix's server and below its path, with no way up again."""
    if parts.scheme != "https" or parts.username is not None or parts.password is not None:
        return False
    if (parts.hostname, parts.port or 443) != (prefix.hostname, prefix.port or 443):
        return False
    if any(up in parts.path.lower() for up in ("..", "%2e", "%2f", "%5c")):
        return False
    folder = prefix.path.rstrip("/")
    return parts.path == folder or parts.path.startswith(folder + "/")


def _resolved(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise ValueError("the address has a name that is not known") from None
    return [str(entry[4][0]).partition("%")[0] for entry in found]
