"""Settings: one struct, read from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import SplitResult, quote, urlsplit

import msgspec

from watchly_core.catalogue import IMAGE_GRACE
from watchly_core.errors import Misconfigured
from watchly_core.gallery import MAX_IMAGE_BYTES
from watchly_core.people import Permission

T = TypeVar("T")

#: What `DATABASE_URL` says to have the fakes.
MEMORY: Final = "memory:"

#: How often a service deletes the images that are due.
SWEEP_INTERVAL: Final = timedelta(seconds=30)

_MOST_PORT: Final = 65_535


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says, checked; each field is the variable of its name in lower case.

    `database_url` and `image_store_url` are None where the embedded ones are meant; `home` is
    WATCHLY_HOME.
    """

    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 1
    public_url: str = ""
    environment: Literal["development", "production"] = "development"
    home: Path
    database_url: str | None = None
    read_database_url: str | None = None
    image_store_url: str | None = None
    secret_key: str | None = None
    auth: bool = True
    public_read: bool = True
    registration: Literal["open", "closed"] = "closed"
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_json_bytes: int = 1_000_000
    max_image_bytes: int = MAX_IMAGE_BYTES
    max_import_bytes: int = 1_000_000_000
    max_page_limit: int = 200
    drain_timeout: timedelta = timedelta(seconds=10)
    image_grace: timedelta = IMAGE_GRACE
    log_retention: timedelta | None = None
    sweep_interval: timedelta = SWEEP_INTERVAL
    relay: bool = False
    nats_url: str | None = None
    webhook_private: bool = False
    cache: Literal["off", "local", "shared"] = "off"
    cache_bytes: int = 64_000_000
    valkey_url: str | None = None
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __repr__(self) -> str:
        """Without what nobody should read in a log."""
        return "Settings(…)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Nothing, for rich as well."""
        return []

    @property
    def in_memory(self) -> bool:
        """Whether the fakes are asked for."""
        return self.database_url == MEMORY

    @property
    def everybody(self) -> frozenset[Permission]:
        """What everybody may do, signed in or not."""
        if not self.auth:
            return frozenset(Permission)
        granted = {Permission.READ: self.public_read, Permission.REGISTER: self.registration == "open"}
        return frozenset(permission for permission, on in granted.items() if on)


def load_settings(dotenv: Path = Path(".env")) -> Settings:
    """The settings of this process: a `.env` file, under the real environment.

    Raises:
        Misconfigured: a variable has a bad value, or the file is no text.
    """
    from dotenv import dotenv_values

    try:
        values = dotenv_values(dotenv) if dotenv.is_file() else {}
    except UnicodeDecodeError:
        raise Misconfigured(f"{dotenv} must be text in UTF-8; an example of its lines: PORT=8080") from None
    return read_settings({**{name: value or "" for name, value in values.items()}, **os.environ})


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings that `environment` gives; an empty variable counts as unset.

    Raises:
        Misconfigured: a variable has a bad value.
    """
    given = _Variables(environment)
    name = given.get("ENVIRONMENT", _one_of("development", "production"), "development", "production")
    production = name == "production"
    return Settings(
        host=given.get("HOST", _text, "127.0.0.1", "0.0.0.0"),  # noqa: S104 - an example
        port=given.get("PORT", _integer(0, _MOST_PORT), 5000, "8080"),
        workers=given.get("WORKERS", _integer(1, 512), _cores(), "2"),
        public_url=given.get("PUBLIC_URL", _web_address, "", "https://movies.example"),
        environment="production" if production else "development",
        home=given.get("WATCHLY_HOME", _path, None, "/srv/watchly") or _default_home(),
        database_url=given.get(
            "DATABASE_URL", _database_url, None, "postgresql://user:password@localhost/watchly"
        ),
        read_database_url=_replica(given),
        image_store_url=_image_store(given),
        secret_key=given.get("SECRET_KEY", _secret, None, "the output of: openssl rand -hex 32"),
        auth=given.get("AUTH", _switch, True, "off"),
        public_read=given.get("PUBLIC_READ", _switch, True, "false"),
        registration="open"
        if given.get("REGISTRATION", _one_of("open", "closed"), "closed", "open") == "open"
        else "closed",
        cors_origins=given.get("CORS_ORIGINS", _origins, (), "https://app.example,http://localhost:3000"),
        trusted_proxies=given.get("TRUSTED_PROXIES", _networks, (), "127.0.0.1,10.0.0.0/8"),
        allowed_hosts=given.get("ALLOWED_HOSTS", _hosts, (), "movies.example,www.movies.example"),
        max_json_bytes=given.get("MAX_JSON_BYTES", _size, 1_000_000, "1 MB"),
        max_image_bytes=given.get("MAX_IMAGE_BYTES", _size, MAX_IMAGE_BYTES, "500 MB"),
        max_import_bytes=given.get("MAX_IMPORT_BYTES", _size, 1_000_000_000, "1 GB"),
        max_page_limit=given.get("MAX_PAGE_LIMIT", _integer(1, 10_000), 200, "200"),
        drain_timeout=given.get("DRAIN_TIMEOUT", duration, timedelta(seconds=10), "10 s"),
        image_grace=given.get("IMAGE_GRACE", duration, IMAGE_GRACE, "30 days"),
        log_retention=given.get("LOG_RETENTION", duration, None, "365 days"),
        sweep_interval=given.get("SWEEP_INTERVAL", duration, SWEEP_INTERVAL, "30 s"),
        relay=given.get("RELAY", _switch, False, "on"),
        nats_url=given.get("NATS_URL", _nats_url, None, "nats://user:password@127.0.0.1:4222"),
        webhook_private=given.get("WEBHOOK_PRIVATE", _switch, False, "on"),
        cache=_cache(given),
        cache_bytes=given.get("CACHE_BYTES", _size, 64_000_000, "64 MB"),
        valkey_url=given.get("VALKEY_URL", _valkey_url, None, _VALKEY_EXAMPLE),
        log_format="json"
        if given.get("LOG_FORMAT", _one_of("console", "json"), "json" if production else "console", "json")
        == "json"
        else "console",
        log_level=msgspec.convert(
            given.get("LOG_LEVEL", _one_of("debug", "info", "warning", "error"), "info", "warning"),
            Literal["debug", "info", "warning", "error"],
        ),
    )


class _Variables:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def get(self, name: str, parse: Callable[[str], T], default: T, example: str) -> T:
        text = self._environment.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise Misconfigured(f"{name} {error}; an example: {name}={example}") from None


def _text(text: str) -> str:
    return text


def _path(text: str) -> Path | None:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("must be a path, and nobody knows the home directory that it begins with") from None


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in text.split(",")) if part)


_HOST: Final = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")


def _hosts(text: str) -> tuple[str, ...]:
    hosts = _list(text.lower())
    if "*" in hosts:
        return ()
    if not all(map(_HOST.fullmatch, hosts)):
        raise ValueError("must be a comma list of host names (no scheme, port, path or pattern), or *")
    return hosts


#: IPv4 addresses as a socket for both kinds shows them.
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def _networks(text: str) -> tuple[str, ...]:
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


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text.lower()

    return parse


_SWITCH: Final = {"on": True, "true": True, "off": False, "false": False}


def _switch(text: str) -> bool:
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise ValueError("must be on or off") from None


_DIGITS: Final = re.compile(r"[0-9]{1,9}")


def _integer(smallest: int, largest: int) -> Callable[[str], int]:
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
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "day": 86_400, "days": 86_400}


def _quantity(text: str, units: Mapping[str, int], kind: str) -> int:
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2].lower() not in units:
        raise ValueError(f"must be {kind}: a whole number with one of {', '.join(filter(None, units))}")
    return int(found[1]) * units[found[2].lower()]


def _size(text: str) -> int:
    size = _quantity(text, _BYTES, "a size")
    if not size:
        raise ValueError("must be more than 0")
    return size


def duration(text: str) -> timedelta:
    """The time that a text like ``15 m`` names.

    Raises:
        ValueError: it names none; says what it must be.
    """
    seconds = _quantity(text, _SECONDS, "a duration")
    if seconds > 100 * 366 * 86_400:
        raise ValueError("must be at most a hundred years")
    return timedelta(seconds=seconds)


def _split(text: str, wanted: str) -> SplitResult:
    """The parts of a URL; what is wrong with it is said without quoting it, for there are secrets in some."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError(f"must be {wanted}") from None
    return parts


def _web_address(text: str) -> str:
    wanted = "an http or https URL"
    parts = _split(text, wanted)
    if parts.scheme not in _WEB_PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"must be {wanted}")
    return text.rstrip("/")


_WEB_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9._*-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def _origins(text: str) -> tuple[str, ...]:
    return tuple(origin if origin == "*" else _origin(origin) for origin in _list(text.lower()))


def _origin(text: str) -> str:
    """An origin as browsers send it: in lower case, without the port that its scheme has anyway."""
    found = _ORIGIN.fullmatch(text)
    if found is None or int(found[3] or 0) > _MOST_PORT:
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


def _database_url(text: str) -> str | None:
    if text != MEMORY and not _is_server(text):
        raise ValueError(f"must be a postgresql:// URL, with odd characters as %XX, or {MEMORY}")
    return text


def _nats_url(text: str) -> str | None:
    wanted = "a nats:// or tls:// URL, or a comma list of those of a cluster"
    for server in _list(text) or ("",):
        parts = _split(server, wanted)
        if parts.scheme not in {"nats", "tls"} or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"must be {wanted}")
    return text


_VALKEY_EXAMPLE: Final = "valkey://user:password@127.0.0.1:6379/0"


def _cache(given: _Variables) -> Literal["off", "local", "shared"]:
    choice: Literal["off", "local", "shared"] = msgspec.convert(
        given.get("CACHE", _one_of("off", "local", "shared"), "off", "local"),
        Literal["off", "local", "shared"],
    )
    if choice == "shared" and given.get("VALKEY_URL", _text, None, "") is None:
        raise Misconfigured(
            f"VALKEY_URL is missing, and CACHE is shared; an example: VALKEY_URL={_VALKEY_EXAMPLE}"
        )
    return choice


def _valkey_url(text: str) -> str | None:
    wanted = "a valkey:// or valkeys:// URL (redis:// and rediss:// are the same)"
    parts = _split(text, wanted)
    if parts.scheme not in {"valkey", "valkeys", "redis", "rediss"} or not parts.hostname:
        raise ValueError(f"must be {wanted}")
    if not _VALKEY_PATH.fullmatch(parts.path) or parts.query or parts.fragment:
        raise ValueError("must end with the host, its port, or the number of a database")
    return text


_VALKEY_PATH: Final = re.compile(r"(/[0-9]{0,5})?")


def _is_server(text: str) -> bool:
    return _DATABASE_URL.fullmatch(text) is not None and _STRAY_PERCENT.search(text) is None


_REPLICA_EXAMPLE: Final = "postgresql://user:password@replica/watchly"


def _replica(given: _Variables) -> str | None:
    url = given.get("READ_DATABASE_URL", _replica_url, None, _REPLICA_EXAMPLE)
    primary = given.get("DATABASE_URL", _text, "", "")
    if url is not None and primary in {"", MEMORY}:
        raise Misconfigured(
            "READ_DATABASE_URL names a replica, and DATABASE_URL no server that could have one;"
            " an example: DATABASE_URL=postgresql://user:password@localhost/watchly"
        )
    return url


def _replica_url(text: str) -> str | None:
    if not _is_server(text):
        raise ValueError("must be a postgresql:// URL, with odd characters as %XX")
    return text


def _secret(text: str) -> str | None:
    if len(text) < 32:  # noqa: PLR2004 - 128 bits as hexadecimal digits
        raise ValueError("must have at least 32 characters")
    if any("\ud800" <= character <= "\udfff" for character in text):  # bytes that are no text
        raise ValueError("must be text in UTF-8")
    return text


def _image_store_url(text: str) -> str | None:
    wanted = f"a file:// or cloudinary:// URL or {MEMORY}"
    if text == MEMORY:
        return text
    parts = _split(text, wanted)
    if parts.scheme == "cloudinary":
        return _cloudinary_url(text)
    if parts.scheme != "file":
        raise ValueError(f"must be {wanted}")
    if parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise ValueError("must name a folder by its whole path, with three slashes and odd characters as %XX")
    return text


def _cloudinary_url(text: str) -> str | None:
    wanted = "cloudinary://key:secret@cloud"
    parts = _split(text, wanted)
    if parts.scheme != "cloudinary" or not (parts.username and parts.password and parts.hostname):
        raise ValueError(f"must be {wanted}")
    return text


#: The variables that Cloudinary's console shows, in the order of its URL, with an example of each.
_CLOUDINARY: Final[Mapping[str, str]] = {
    "CLOUDINARY_API_KEY": "123456789012345",
    "CLOUDINARY_API_SECRET": "the secret that belongs to the key",
    "CLOUDINARY_CLOUD_NAME": "my-cloud",
}


def _image_store(given: _Variables) -> str | None:
    url = given.get("IMAGE_STORE_URL", _image_store_url, None, "file:///srv/images")
    url = url or given.get("CLOUDINARY_URL", _cloudinary_url, None, "cloudinary://key:secret@cloud")
    if url is not None:
        return url
    parts = {name: given.get(name, _text, "", example) for name, example in _CLOUDINARY.items()}
    if not any(parts.values()):
        return None
    for name, part in parts.items():
        if not part:
            raise Misconfigured(
                f"{name} is missing, while other CLOUDINARY_ variables are set;"
                f" an example: {name}={_CLOUDINARY[name]}"
            )
    key, secret, cloud = (quote(part, safe="") for part in parts.values())
    return f"cloudinary://{key}:{secret}@{cloud}"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _default_home() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/watchly")
    from platformdirs import user_data_path

    return user_data_path("watchly")
