"""Settings: one struct, read from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar, get_args
from urllib.parse import quote

import msgspec

from watchly_adapters import setting_values as parse
from watchly_adapters.databases import EVERYTHING, Kept
from watchly_core.catalogue import IMAGE_GRACE
from watchly_core.errors import Misconfigured
from watchly_core.gallery import MAX_IMAGE_BYTES
from watchly_core.people import Permission
from watchly_core.rates import Rate

__all__ = ["RateLimitFallback", "Service", "Settings", "load_settings", "read_settings"]

T = TypeVar("T")

MEMORY: Final = parse.MEMORY

#: A part of the API that can be deployed apart from the others.
Service: TypeAlias = Literal["movies", "images", "people", "changes"]
SERVICES: Final[frozenset[Service]] = frozenset(get_args(Service))

#: What becomes of requests while the Valkey that counts them does not answer.
RateLimitFallback: TypeAlias = Literal["local", "allow", "refuse"]

#: How often a service deletes the images that are due.
SWEEP_INTERVAL: Final = timedelta(seconds=30)

#: How long a statement takes that is logged as slow.
SLOW_STATEMENT: Final = timedelta(milliseconds=500)


_LOG_FORMAT: Final = parse.one_of("console", "json")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says, checked; each field is the variable of its name in lower case.

    `database_url` and `image_store_url` are None where the embedded ones are meant; `home` is WATCHLY_HOME.
    `traces` has the variables `OTEL_…`, if these want traces.
    """

    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 1
    public_url: str = ""
    environment: Literal["development", "production"] = "development"
    service: frozenset[Service] = SERVICES
    home: Path
    database_url: str | None = None
    read_database_url: str | None = None
    image_store_url: str | None = None
    secret_key: str | None = None
    jwks_url: str | None = None
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
    max_requests: int = 1_000
    request_timeout: timedelta = timedelta(seconds=15)
    drain_timeout: timedelta = timedelta(seconds=10)
    image_grace: timedelta = IMAGE_GRACE
    log_retention: timedelta | None = None
    sweep_interval: timedelta = SWEEP_INTERVAL
    relay: bool = False
    nats_url: str | None = None
    broker_url: str | None = None
    webhook_private: bool = False
    cache: Literal["off", "local", "shared"] = "off"
    cache_bytes: int = 64_000_000
    valkey_url: str | None = None
    rate_limit: Rate | None = None
    rate_limit_fallback: RateLimitFallback = "local"
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    slow_statement: timedelta = SLOW_STATEMENT
    server_timing: bool = False
    metrics_port: int | None = None
    traces: Mapping[str, str] | None = None

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
    def in_postgres(self) -> bool:
        """Whether it is a PostgreSQL, the embedded one as well."""
        # What starts one names it as libpq does, by words such as host=/tmp, which is no URL.
        scheme, colon, _ = (self.database_url or "").partition(":")
        return not self.in_memory and (not colon or "=" in scheme or scheme in {"postgres", "postgresql"})

    @property
    def is_brought(self) -> bool:
        """Whether it is a store of another package."""
        return not (self.in_memory or self.in_postgres)

    def needs_secret(self, keeps: Collection[Kept] = EVERYTHING) -> bool:
        """Whether anything is signed by the secret, or by what it seals, or verified so.

        Args:
            keeps: what the database keeps.
        """
        files = (self.image_store_url or MEMORY).startswith(("file:", MEMORY))
        images = "images" in keeps and "images" in self.service
        return ("people" in keeps and self.jwks_url is None) or (images and files)

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
    name = given.get("ENVIRONMENT", parse.one_of("development", "production"), "development", "production")
    production = name == "production"
    return Settings(
        host=given.get("HOST", parse.text, "127.0.0.1", "0.0.0.0"),  # noqa: S104 - an example
        port=given.get("PORT", parse.integer(0, parse.MOST_PORT), 5000, "8080"),
        workers=given.get("WORKERS", parse.integer(1, 512), _cores(), "2"),
        public_url=given.get("PUBLIC_URL", parse.web_address, "", "https://movies.example"),
        environment="production" if production else "development",
        service=_service(given),
        home=given.get("WATCHLY_HOME", parse.path, None, "/srv/watchly") or _default_home(),
        database_url=given.get(
            "DATABASE_URL", parse.database_url, None, "postgresql://user:password@localhost/watchly"
        ),
        read_database_url=_replica(given),
        image_store_url=_image_store(given),
        secret_key=given.get("SECRET_KEY", parse.secret, None, "the output of: openssl rand -hex 32"),
        jwks_url=_jwks_url(given),
        auth=given.get("AUTH", parse.switch, True, "off"),
        public_read=given.get("PUBLIC_READ", parse.switch, True, "false"),
        registration="open"
        if given.get("REGISTRATION", parse.one_of("open", "closed"), "closed", "open") == "open"
        else "closed",
        cors_origins=given.get(
            "CORS_ORIGINS", parse.origins, (), "https://app.example,http://localhost:3000"
        ),
        trusted_proxies=given.get("TRUSTED_PROXIES", parse.networks, (), "127.0.0.1,10.0.0.0/8"),
        allowed_hosts=given.get("ALLOWED_HOSTS", parse.hosts, (), "movies.example,www.movies.example"),
        max_json_bytes=given.get("MAX_JSON_BYTES", parse.size, 1_000_000, "1 MB"),
        max_image_bytes=given.get("MAX_IMAGE_BYTES", parse.size, MAX_IMAGE_BYTES, "500 MB"),
        max_import_bytes=given.get("MAX_IMPORT_BYTES", parse.size, 1_000_000_000, "1 GB"),
        max_page_limit=given.get("MAX_PAGE_LIMIT", parse.integer(1, 10_000), 200, "200"),
        max_requests=given.get("MAX_REQUESTS", parse.integer(1, 100_000), 1_000, "1000"),
        request_timeout=given.get("REQUEST_TIMEOUT", parse.limit, timedelta(seconds=15), "15 s"),
        drain_timeout=given.get("DRAIN_TIMEOUT", parse.duration, timedelta(seconds=10), "10 s"),
        image_grace=given.get("IMAGE_GRACE", parse.duration, IMAGE_GRACE, "30 days"),
        log_retention=given.get("LOG_RETENTION", parse.duration, None, "365 days"),
        sweep_interval=given.get("SWEEP_INTERVAL", parse.duration, SWEEP_INTERVAL, "30 s"),
        relay=given.get("RELAY", parse.switch, False, "on"),
        nats_url=given.get("NATS_URL", parse.nats_url, None, "nats://user:password@127.0.0.1:4222"),
        broker_url=given.get("BROKER_URL", parse.broker_url, None, "kafka://127.0.0.1:9092"),
        webhook_private=given.get("WEBHOOK_PRIVATE", parse.switch, False, "on"),
        cache=_cache(given),
        cache_bytes=given.get("CACHE_BYTES", parse.size, 64_000_000, "64 MB"),
        valkey_url=given.get("VALKEY_URL", parse.valkey_url, None, _VALKEY_EXAMPLE),
        rate_limit=given.get("RATE_LIMIT", parse.rate, None, "600/1 min"),
        rate_limit_fallback=msgspec.convert(
            given.get("RATE_LIMIT_FALLBACK", parse.one_of(*get_args(RateLimitFallback)), "local", "refuse"),
            RateLimitFallback,
        ),
        log_format="json"
        if given.get(
            "LOG_FORMAT", parse.one_of("console", "json"), "json" if production else "console", "json"
        )
        == "json"
        else "console",
        log_level=msgspec.convert(
            given.get("LOG_LEVEL", parse.one_of("debug", "info", "warning", "error"), "info", "warning"),
            Literal["debug", "info", "warning", "error"],
        ),
        slow_statement=given.get("SLOW_STATEMENT", parse.duration, SLOW_STATEMENT, "500 ms"),
        server_timing=given.get("SERVER_TIMING", parse.switch, False, "on"),
        metrics_port=given.get("METRICS_PORT", parse.integer(0, parse.MOST_PORT), None, "9464"),
        traces=_traces(given, environment),
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


#: What says where traces go; the library reads it, and all else that begins so.
_OTEL: Final = "OTEL_"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTER: Final = "OTEL_TRACES_EXPORTER"


def _traces(given: _Variables, environment: Mapping[str, str]) -> Mapping[str, str] | None:
    """What the variables of OpenTelemetry's specification say, if they want traces."""
    said = {name: value for name, value in environment.items() if name.startswith(_OTEL) and value.strip()}
    if said.get("OTEL_SDK_DISABLED", "").lower() == "true" or said.get(_EXPORTER) == "none":
        return None
    for name in _ENDPOINTS:
        given.get(name, parse.web_address, None, "http://127.0.0.1:4318")
    return said if any(name in said for name in (_EXPORTER, *_ENDPOINTS)) else None


def _service(given: _Variables) -> frozenset[Service]:
    everything: frozenset[str] = SERVICES
    words = given.get("SERVICE", parse.some_of(*get_args(Service)), everything, "movies,images")
    return msgspec.convert(words, frozenset[Service])


def _jwks_url(given: _Variables) -> str | None:
    example = "https://movies.example/.well-known/jwks.json"
    url = given.get("JWKS_URL", parse.key_address, None, example)
    if url is not None and "people" in _service(given):
        raise Misconfigured(
            "JWKS_URL is for a service without people, and this one has the keys itself;"
            " an example: SERVICE=movies,images,changes"
        )
    return url


_VALKEY_EXAMPLE: Final = "valkey://user:password@127.0.0.1:6379/0"


def _cache(given: _Variables) -> Literal["off", "local", "shared"]:
    choice: Literal["off", "local", "shared"] = msgspec.convert(
        given.get("CACHE", parse.one_of("off", "local", "shared"), "off", "local"),
        Literal["off", "local", "shared"],
    )
    if choice == "shared" and given.get("VALKEY_URL", parse.text, None, "") is None:
        raise Misconfigured(
            f"VALKEY_URL is missing, and CACHE is shared; an example: VALKEY_URL={_VALKEY_EXAMPLE}"
        )
    return choice


_REPLICA_EXAMPLE: Final = "postgresql://user:password@replica/watchly"


def _replica(given: _Variables) -> str | None:
    url = given.get("READ_DATABASE_URL", parse.replica_url, None, _REPLICA_EXAMPLE)
    primary = given.get("DATABASE_URL", parse.text, "", "")
    if url is not None and not parse.is_server(primary):
        raise Misconfigured(
            "READ_DATABASE_URL names a replica, and DATABASE_URL no server that could have one;"
            " an example: DATABASE_URL=postgresql://user:password@localhost/watchly"
        )
    return url


#: The variables that Cloudinary's console shows, in the order of its URL, with an example of each.
_CLOUDINARY: Final[Mapping[str, str]] = {
    "CLOUDINARY_API_KEY": "123456789012345",
    "CLOUDINARY_API_SECRET": "the secret that belongs to the key",
    "CLOUDINARY_CLOUD_NAME": "my-cloud",
}


def _image_store(given: _Variables) -> str | None:
    url = given.get("IMAGE_STORE_URL", parse.image_store_url, None, "file:///srv/images")
    url = url or given.get("CLOUDINARY_URL", parse.cloudinary_url, None, "cloudinary://key:secret@cloud")
    if url is not None:
        return url
    parts = {name: given.get(name, parse.text, "", example) for name, example in _CLOUDINARY.items()}
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
