"""The settings of a server, which are checked when they are made."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from echoembed import errors

KEY_VARIABLE = "ECHOEMBED_API_KEY"
_KEY_LENGTH = 16
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request, and of all requests together; ``/info`` states them too.

    Raises:
        ServerError: If a limit is not a positive, finite number.
    """

    texts: int = 2048
    """The largest number of texts in a request."""
    body_bytes: int = 8 * 2**20
    """The largest number of bytes in a body."""
    request_tokens: int | None = None
    """The largest number of tokens in a request, and in all that wait; None for those of the largest request."""
    held_bytes: int = 512 * 2**20
    """The largest number of bytes of all bodies and answers in memory."""
    instruction_characters: int = 4096
    """The largest number of characters in an instruction."""
    seconds: float = 300.0
    """How long a request may wait for the model before it gets an error."""
    body_seconds: float = 30.0
    """How long a body may take to arrive."""
    header_seconds: float = 10.0
    """How long a client may take to send a request's headers, and how long it may stop reading an answer."""
    connections: int = 1000
    """The largest number of connections; a request on a further connection gets 429."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < math.inf:
                raise errors.ServerError.bad_value(name, value, "a finite number above 0")


@dataclass(frozen=True)
class Keys:
    """API keys, stored as digests: compared in constant time, and never in a log or a traceback."""

    digests: tuple[bytes, ...] = ()

    @classmethod
    def read(cls, file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
        """Read the keys of a file, one a line, and the key of the environment variable.

        Raises:
            ServerError: If the file cannot be read, or a key is too short or not visible ASCII.
        """
        places: list[tuple[object, Sequence[str]]] = []
        if KEY_VARIABLE in environment:
            places.append((KEY_VARIABLE, [environment[KEY_VARIABLE]]))
        if file is not None:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise errors.server_keys(file, getattr(error, "strerror", None) or type(error).__name__) from error
            places.append((file, [line for line in map(str.strip, lines) if line]))
        digests = []
        for place, keys in places:
            if not keys:
                raise errors.server_keys(place, "there are none")
            for key in keys:
                if len(key) < _KEY_LENGTH or not all("!" <= character <= "~" for character in key):
                    raise errors.server_keys(place, "one of them is shorter, or holds another character")
                digests.append(_digest(key.encode()))
        return cls(tuple(digests))

    def __bool__(self) -> bool:
        return bool(self.digests)

    def accept(self, key: bytes) -> bool:
        """Return whether the key is one of these; takes the same time for a wrong key as for a right one."""
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, stored) for stored in self.digests]
        return any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The address, keys, names and limits of a server.

    Raises:
        ServerError: If other machines can reach the address and no key is set, or no request can use one of the names.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    keys: Keys = Keys()
    names: tuple[str, ...] = ()
    """Names of the model in requests; empty for its own name."""
    hosts: tuple[str, ...] = ()
    """Further host names that are allowed in requests if no key is set, besides those of loopback."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise errors.ServerError.bad_value("port", self.port, "0 (any that is free) to 65535")
        if not self.keys and not is_loopback(self.host):
            raise errors.server_open_to_all(self.host)
        for name in self.names:
            if not name.strip():
                raise errors.ServerError.bad_value("served-name", name, "a name with at least one visible character")
        object.__setattr__(self, "hosts", tuple(map(_host_name, self.hosts)))


def _host_name(host: str) -> str:
    """Return a host as requests name it: in lower case, an IPv6 address without brackets and as short as it can be."""
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(inner))
    except ValueError:
        if _NAME.fullmatch(host):
            return host.lower()
    allowed = "a host name in ASCII, or an address, without a port and without http://"
    raise errors.ServerError.bad_value("allow-host", host, allowed)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address: all addresses of a name must be loopback."""
    try:
        addresses = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)  # noqa: S104 - asked, not bound
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in addresses)
