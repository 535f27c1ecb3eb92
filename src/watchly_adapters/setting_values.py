"""What texts in the environment mean: each function reads one kind of value.

They raise a ValueError that says what a text must be, and never quotes it, for there are secrets in some.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from watchly_adapters import plugins
from watchly_core.rates import Rate

#: What `DATABASE_URL` says to have the fakes.
MEMORY: Final = "memory:"

MOST_PORT: Final = 65_535


def text(text: str) -> str:
    """Any text."""
    return text


def path(text: str) -> Path | None:
    """A path, made whole."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("must be a path, and nobody knows the home directory that it begins with") from None


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in text.split(",")) if part)


_HOST: Final = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")


def hosts(text: str) -> tuple[str, ...]:
    """A comma list of host names; nothing for ``*``."""
    hosts = _list(text.lower())
    if "*" in hosts:
        return ()
    if not all(map(_HOST.fullmatch, hosts)):
        raise ValueError("must be a comma list of host names (no scheme, port, path or pattern), or *")
    return hosts


#: IPv4 addresses as a socket for both kinds shows them.
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def networks(text: str) -> tuple[str, ...]:
    """A comma list of IP addresses and networks, as networks."""
    return tuple(_network(part) for part in _list(text))


def _network(text: str) -> str:
    """A network as others spell it too; that of an address has just this one."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("must be a comma list of IP addresses and networks") from None
    if "%" in text:
        raise ValueError("must have IPv6 addresses without the names of interfaces")
    # Was the address meant, or all of its network? Whom to trust is not to be guessed.
    if ip_address(text.partition("/")[0]) != network[0]:
        raise ValueError("must have networks that begin with their address, as 10.0.0.0/8 does")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        network = IPv4Network((int(network[0]) & 0xFFFF_FFFF, network.prefixlen - 96))
    return str(network)


def one_of(*choices: str) -> Callable[[str], str]:
    """One of these words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text.lower()

    return parse


_SWITCH: Final = {"on": True, "true": True, "off": False, "false": False}


def some_of(*choices: str) -> Callable[[str], frozenset[str]]:
    """A comma list of some of these words, in any case."""

    def parse(text: str) -> frozenset[str]:
        words = frozenset(_list(text.lower()))
        if not words or not words <= set(choices):
            raise ValueError(f"must be a comma list of some of {', '.join(choices)}")
        return words

    return parse


def switch(text: str) -> bool:
    """On or off."""
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise ValueError("must be on or off") from None


_DIGITS: Final = re.compile(r"[0-9]{1,9}")


def integer(smallest: int, largest: int) -> Callable[[str], int]:
    """An integer in these bounds."""

    def parse(text: str) -> int:
        if not (_DIGITS.fullmatch(text) and smallest <= int(text) <= largest):
            raise ValueError(f"must be an integer from {smallest} to {largest}")
        return int(text)

    return parse


_QUANTITY: Final = re.compile(r"(\d{1,15}) ?([a-z]*)", re.IGNORECASE | re.ASCII)
_BYTES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_MILLISECONDS: Final = {
    "": 1_000,
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "day": 86_400_000,
    "days": 86_400_000,
}


def _quantity(text: str, units: Mapping[str, int], kind: str) -> int:
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2].lower() not in units:
        raise ValueError(f"must be {kind}: a whole number with one of {', '.join(filter(None, units))}")
    return int(found[1]) * units[found[2].lower()]


def size(text: str) -> int:
    """The bytes that a text like ``1 MB`` names."""
    size = _quantity(text, _BYTES, "a size")
    if not size:
        raise ValueError("must be more than 0")
    return size


def duration(text: str) -> timedelta:
    """The time that a text like ``15 m`` names."""
    milliseconds = _quantity(text, _MILLISECONDS, "a duration")
    if milliseconds > 100 * 366 * 86_400_000:
        raise ValueError("must be at most a hundred years")
    return timedelta(milliseconds=milliseconds)


_RATE: Final = re.compile(r"([0-9]{1,9}) ?/ ?(.+)", re.DOTALL)
_MOST_WINDOW: Final = timedelta(days=1)


def rate(text: str) -> Rate | None:
    """The requests and the time that a text like ``600/1 min`` names."""
    found = _RATE.fullmatch(text)
    if found is None or not int(found[1]):
        raise ValueError("must be a number of requests, a slash and a duration")
    window = duration(found[2])
    # Clients are told whole seconds.
    if window % timedelta(seconds=1) or not timedelta(0) < window <= _MOST_WINDOW:
        raise ValueError("must have a duration of whole seconds, up to a day")
    return Rate(int(found[1]), window)


_LEAST: Final = timedelta(milliseconds=10)


def limit(text: str) -> timedelta:
    """A time that ends what takes longer."""
    if (found := duration(text)) < _LEAST:
        raise ValueError("must be 10 ms at least")
    return found


def _split(text: str, wanted: str) -> SplitResult:
    """The parts of a URL."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError(f"must be {wanted}") from None
    return parts


def web_address(text: str) -> str:
    """An http or https URL, without a slash at its end."""
    wanted = "an http or https URL"
    parts = _split(text, wanted)
    if parts.scheme not in _WEB_PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"must be {wanted}")
    return text.rstrip("/")


def key_address(text: str) -> str | None:
    """An http or https URL at which keys are published, for everybody."""
    wanted = "an http or https URL without a password"
    parts = _split(text, wanted)
    if parts.scheme not in _WEB_PORTS or not parts.hostname or parts.username or parts.fragment:
        raise ValueError(f"must be {wanted}")
    return text


_WEB_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9._*-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def origins(text: str) -> tuple[str, ...]:
    """A comma list of origins, or ``*`` for all."""
    return tuple(origin if origin == "*" else _origin(origin) for origin in _list(text.lower()))


def _origin(text: str) -> str:
    """An origin as browsers send it: in lower case, without the port that its scheme has anyway."""
    found = _ORIGIN.fullmatch(text)
    if found is None or int(found[3] or 0) > MOST_PORT:
        raise ValueError("must be a comma list of origins (scheme and host in ASCII, no path), or *")
    scheme, host, port = found[1], found[2], int(found[3] or _WEB_PORTS[found[1]])
    return f"{scheme}://{host}" + (f":{port}" if port != _WEB_PORTS[scheme] else "")


#: As libpq reads it: user and password end at the first @, and brackets are for IPv6 addresses.
_DATABASE_URL: Final = re.compile(
    r"postgres(?:ql)?://(?:[^@/]*@)?+{host}(?:,{host})*(?:[/?].*)?".format(
        host=r"(?:\[[^\[\]/?]+\]|[^\[:,/?][^:,/?]*|)(?::[^,/?]*)?"
    )
)


_STRAY_PERCENT: Final = re.compile(r"%(?![0-9a-fA-F]{2})")


def database_url(text: str) -> str | None:
    """The URL of a PostgreSQL, or of a store that an installed package brings, or `MEMORY`."""
    if text == MEMORY or is_server(text):
        return text
    if brought := _brought_url(text, plugins.MOVIE_STORES):
        return brought
    wanted = f"a postgresql:// URL, with odd characters as %XX, or {MEMORY}"
    raise ValueError(f"must be {wanted}{_brought(plugins.MOVIE_STORES)}")


def _brought_url(text: str, kind: plugins.Kind) -> str | None:
    """The URL, if an installed package knows such ones; a scheme is the same in any case."""
    url = _plain(text)
    return url if ":" in text and url.partition(":")[0] in plugins.schemes(kind) else None


def _brought(kind: plugins.Kind) -> str:
    """What else there may be, in the words of a list."""
    return "".join(f", or a URL of {scheme}:" for scheme in plugins.schemes(kind))


def broker_url(text: str) -> str | None:
    """The URL of a broker that an installed package knows."""
    if brought := _brought_url(text, plugins.PUBLISHERS):
        return brought
    known = _brought(plugins.PUBLISHERS).removeprefix(", or ")
    raise ValueError(f"must be {known or 'one that an installed package knows, and none does'}")


def nats_url(text: str) -> str | None:
    """The URL of a NATS server, or a comma list of those of a cluster."""
    wanted = "a nats:// or tls:// URL, or a comma list of those of a cluster"
    for server in _list(text) or ("",):
        parts = _split(server, wanted)
        if parts.scheme not in {"nats", "tls"} or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"must be {wanted}")
    return text


def valkey_url(text: str) -> str | None:
    """The URL of a Valkey."""
    wanted = "a valkey:// or valkeys:// URL (redis:// and rediss:// are the same)"
    parts = _split(text, wanted)
    if parts.scheme not in {"valkey", "valkeys", "redis", "rediss"} or not parts.hostname:
        raise ValueError(f"must be {wanted}")
    if not _VALKEY_PATH.fullmatch(parts.path) or parts.query or parts.fragment:
        raise ValueError("must end with the host, its port, or the number of a database")
    return text


_VALKEY_PATH: Final = re.compile(r"(/[0-9]{0,5})?")


def is_server(text: str) -> bool:
    """Whether it is the URL of a PostgreSQL."""
    return _DATABASE_URL.fullmatch(text) is not None and _STRAY_PERCENT.search(text) is None


def replica_url(text: str) -> str | None:
    """The URL of a PostgreSQL."""
    if not is_server(text):
        raise ValueError("must be a postgresql:// URL, with odd characters as %XX")
    return text


def secret(text: str) -> str | None:
    """A secret of enough characters."""
    if len(text) < 32:  # noqa: PLR2004 - 128 bits as hexadecimal digits
        raise ValueError("must have at least 32 characters")
    if any("\ud800" <= character <= "\udfff" for character in text):  # bytes that are no text
        raise ValueError("must be text in UTF-8")
    return text


def image_store_url(text: str) -> str | None:
    """The URL of a folder or of Cloudinary, or of a store that an installed package brings, or `MEMORY`."""
    wanted = f"a file:// or cloudinary:// URL or {MEMORY}"
    if text == MEMORY:
        return text
    parts = _split(text, wanted)
    if parts.scheme == "cloudinary":
        return cloudinary_url(text)
    if parts.scheme != "file":
        if brought := _brought_url(text, plugins.IMAGE_STORES):
            return brought
        raise ValueError(f"must be {wanted}{_brought(plugins.IMAGE_STORES)}")
    if parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise ValueError("must name a folder by its whole path, with three slashes and odd characters as %XX")
    return _plain(text)


def cloudinary_url(text: str) -> str | None:
    """The URL that Cloudinary's console shows."""
    wanted = "cloudinary://key:secret@cloud"
    parts = _split(text, wanted)
    if parts.scheme != "cloudinary" or not (parts.username and parts.password and parts.hostname):
        raise ValueError(f"must be {wanted}")
    return _plain(text)


def _plain(url: str) -> str:
    """The URL with its scheme in lower case, as all that asks for that expects it."""
    scheme, _, rest = url.partition(":")
    return f"{scheme.lower()}:{rest}"
