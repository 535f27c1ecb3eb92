"""What the environment says, read into settings or refused in one line."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from platformdirs import user_data_path
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from rich.pretty import pretty_repr

from watchly_adapters.settings import SERVICES, Settings, load_settings, read_settings
from watchly_core.errors import Misconfigured
from watchly_core.people import Permission
from watchly_core.rates import Rate

SECRET = "s3cret" * 6
HOME = Path("/srv/watchly")
DEFAULTS: Mapping[str, object] = {
    "host": "127.0.0.1",
    "port": 5000,
    "public_url": "",
    "environment": "development",
    "service": SERVICES,
    "database_url": None,
    "read_database_url": None,
    "image_store_url": None,
    "secret_key": None,
    "jwks_url": None,
    "auth": True,
    "public_read": True,
    "registration": "closed",
    "cors_origins": (),
    "trusted_proxies": (),
    "allowed_hosts": (),
    "max_json_bytes": 1_000_000,
    "max_image_bytes": 500_000_000,
    "max_import_bytes": 1_000_000_000,
    "max_page_limit": 200,
    "max_requests": 1_000,
    "request_timeout": timedelta(seconds=15),
    "drain_timeout": timedelta(seconds=10),
    "image_grace": timedelta(days=30),
    "log_retention": None,
    "sweep_interval": timedelta(seconds=30),
    "relay": False,
    "nats_url": None,
    "broker_url": None,
    "webhook_private": False,
    "cache": "off",
    "cache_bytes": 64_000_000,
    "valkey_url": None,
    "rate_limit": None,
    "rate_limit_fallback": "local",
    "log_format": "console",
    "log_level": "info",
    "slow_statement": timedelta(milliseconds=500),
    "server_timing": False,
    "metrics_port": None,
    "traces": None,
}
TRIO = {
    "CLOUDINARY_CLOUD_NAME": "films",
    "CLOUDINARY_API_KEY": "123",
    "CLOUDINARY_API_SECRET": SECRET,
}


def field(variable: str) -> str:
    return {"WATCHLY_HOME": "home", "CLOUDINARY_URL": "image_store_url"}.get(variable, variable.lower())


def said_of(environment: Mapping[str, str]) -> str:
    with pytest.raises(Misconfigured) as raised:
        read_settings(environment)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return str(raised.value)


# ---- defaults ----


def test_the_defaults() -> None:
    expected = {
        **DEFAULTS,
        "home": Path("/var/lib/watchly") if os.geteuid() == 0 else user_data_path("watchly"),
        "workers": len(os.sched_getaffinity(0)),
    }
    assert msgspec.structs.asdict(read_settings({})) == expected


def test_settings_made_by_hand_have_the_same_defaults() -> None:
    expected = {**DEFAULTS, "home": HOME, "workers": 1}
    assert msgspec.structs.asdict(Settings(home=HOME)) == expected


@pytest.mark.parametrize(("user", "home"), [(0, Path("/var/lib/watchly")), (1, user_data_path("watchly"))])
def test_the_home_is_that_of_the_user(user: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert read_settings({}).home == home


def test_there_are_as_many_workers_as_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5})
    assert read_settings({}).workers == 3


def test_production_logs_json_unless_told_otherwise() -> None:
    assert read_settings({"ENVIRONMENT": "production"}).log_format == "json"
    assert read_settings({"ENVIRONMENT": "production", "LOG_FORMAT": "console"}).log_format == "console"
    assert read_settings({"ENVIRONMENT": "development"}).log_format == "console"


# ---- good values ----

GOOD: list[tuple[str, str, object]] = [
    ("HOST", "::1", "::1"),
    ("PORT", "0", 0),
    ("PORT", "8080", 8080),
    ("PORT", "65535", 65_535),
    ("WORKERS", "1", 1),
    ("WORKERS", "512", 512),
    ("PUBLIC_URL", "https://films.example", "https://films.example"),
    ("PUBLIC_URL", "http://films.example:8080/catalogue/", "http://films.example:8080/catalogue"),
    ("ENVIRONMENT", "production", "production"),
    ("ENVIRONMENT", "Development", "development"),
    ("SERVICE", "movies", {"movies"}),
    ("SERVICE", " Images, people,,images", {"images", "people"}),
    ("SERVICE", "movies,images,people,changes", SERVICES),
    ("WATCHLY_HOME", "/srv/films", Path("/srv/films")),
    ("WATCHLY_HOME", "films", Path.cwd() / "films"),
    ("WATCHLY_HOME", "~root/films", Path(pwd.getpwnam("root").pw_dir) / "films"),
    ("DATABASE_URL", "memory:", "memory:"),
    ("DATABASE_URL", "postgresql://u:p@h/films", "postgresql://u:p@h/films"),
    ("DATABASE_URL", "postgres://h", "postgres://h"),
    ("IMAGE_STORE_URL", "memory:", "memory:"),
    ("IMAGE_STORE_URL", "file:///srv/images", "file:///srv/images"),
    ("IMAGE_STORE_URL", "file:/srv/a%20b", "file:/srv/a%20b"),
    ("IMAGE_STORE_URL", "cloudinary://1:s@films", "cloudinary://1:s@films"),
    ("CLOUDINARY_URL", "cloudinary://1:s@films", "cloudinary://1:s@films"),
    (
        "CLOUDINARY_URL",
        "cloudinary://1:s@films?upload_prefix=http://127.0.0.1:9",
        "cloudinary://1:s@films?upload_prefix=http://127.0.0.1:9",
    ),
    ("SECRET_KEY", "x" * 32, "x" * 32),
    ("SECRET_KEY", "\u043a\u043b\u044e\u0447" * 8, "\u043a\u043b\u044e\u0447" * 8),
    ("AUTH", "OFF", False),
    ("AUTH", "false", False),
    ("AUTH", "on", True),
    ("PUBLIC_READ", "False", False),
    ("PUBLIC_READ", "off", False),
    ("PUBLIC_READ", "true", True),
    ("REGISTRATION", "Open", "open"),
    ("REGISTRATION", "closed", "closed"),
    ("TRUSTED_PROXIES", "127.0.0.1", ("127.0.0.1/32",)),
    (
        "TRUSTED_PROXIES",
        " 10.0.0.0/8 ,192.168.0.0/255.255.0.0,, ::1, FD00::/08",
        ("10.0.0.0/8", "192.168.0.0/16", "::1/128", "fd00::/8"),
    ),
    ("TRUSTED_PROXIES", "2001:DB8:0:0::/32", ("2001:db8::/32",)),
    ("TRUSTED_PROXIES", "0.0.0.0/0,::/0", ("0.0.0.0/0", "::/0")),
    # So a socket for both kinds of addresses shows those of IPv4.
    ("TRUSTED_PROXIES", "::ffff:127.0.0.1,::ffff:10.0.0.0/104", ("127.0.0.1/32", "10.0.0.0/8")),
    ("CORS_ORIGINS", "https://app.example", ("https://app.example",)),
    (
        "CORS_ORIGINS",
        " https://a.example , http://localhost:3000,, ",
        ("https://a.example", "http://localhost:3000"),
    ),
    ("CORS_ORIGINS", "*", ("*",)),
    ("CORS_ORIGINS", "HTTPS://App.example:443", ("https://app.example",)),
    ("CORS_ORIGINS", "http://App.example:080", ("http://app.example",)),
    (
        "CORS_ORIGINS",
        "http://a.example:443,https://a.example:80",
        ("http://a.example:443", "https://a.example:80"),
    ),
    ("CORS_ORIGINS", "http://[::1]:80,http://[FE80::80]", ("http://[::1]", "http://[fe80::80]")),
    ("CORS_ORIGINS", "https://*.app.example", ("https://*.app.example",)),
    ("ALLOWED_HOSTS", "Films.Example, www.films.example,", ("films.example", "www.films.example")),
    ("ALLOWED_HOSTS", "[::1],127.0.0.1,my_api", ("[::1]", "127.0.0.1", "my_api")),
    ("ALLOWED_HOSTS", "*", ()),
    ("ALLOWED_HOSTS", "films.example,*", ()),
    ("MAX_PAGE_LIMIT", "1", 1),
    ("MAX_PAGE_LIMIT", "10000", 10_000),
    ("RELAY", "On", True),
    ("RELAY", "false", False),
    ("NATS_URL", "nats://u:p@127.0.0.1:4222", "nats://u:p@127.0.0.1:4222"),
    ("NATS_URL", "tls://a.example,nats://[::1]:4222/", "tls://a.example,nats://[::1]:4222/"),
    ("WEBHOOK_PRIVATE", "true", True),
    ("CACHE", "Local", "local"),
    ("CACHE_BYTES", "1 GiB", 2**30),
    ("VALKEY_URL", "valkey://cache.example", "valkey://cache.example"),
    ("RATE_LIMIT", "100/1s", Rate(100, timedelta(seconds=1))),
    ("RATE_LIMIT", "600/1 min", Rate(600, timedelta(minutes=1))),
    ("RATE_LIMIT", "5 / 2000 ms", Rate(5, timedelta(seconds=2))),
    ("RATE_LIMIT", "999999999/1 day", Rate(999_999_999, timedelta(days=1))),
    ("RATE_LIMIT_FALLBACK", "Refuse", "refuse"),
    ("VALKEY_URL", "rediss://u:p%40@[::1]:6380/2", "rediss://u:p%40@[::1]:6380/2"),
    ("LOG_FORMAT", "JSON", "json"),
    ("LOG_LEVEL", "WARNING", "warning"),
    ("LOG_LEVEL", "debug", "debug"),
    ("LOG_LEVEL", "error", "error"),
]


@pytest.mark.parametrize(("variable", "text", "value"), GOOD)
def test_a_good_value_is_taken(variable: str, text: str, value: object) -> None:
    assert getattr(read_settings({variable: text}), field(variable)) == value
    assert getattr(read_settings({variable: f" {text}\t"}), field(variable)) == value


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1000", 1000),
        ("7 b", 7),
        ("2 kB", 2_000),
        ("1 MB", 1_000_000),
        ("3mb", 3_000_000),
        ("2 GB", 2_000_000_000),
        ("1 KiB", 1024),
        ("1 MiB", 1_048_576),
        ("2gib", 2_147_483_648),
    ],
)
def test_sizes(text: str, size: int) -> None:
    for variable in ("MAX_JSON_BYTES", "MAX_IMAGE_BYTES", "MAX_IMPORT_BYTES"):
        assert getattr(read_settings({variable: text}), field(variable)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("15", 15),
        ("10 s", 10),
        ("2m", 120),
        ("2 min", 120),
        ("3 h", 10_800),
        ("1 d", 86_400),
        ("1 day", 86_400),
        ("30 Days", 2_592_000),
        ("36600 d", 36_600 * 86_400),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    for variable in ("DRAIN_TIMEOUT", "IMAGE_GRACE", "LOG_RETENTION", "SWEEP_INTERVAL"):
        assert getattr(read_settings({variable: text}), field(variable)) == timedelta(seconds=seconds)


DATABASE_URLS = [
    "postgresql://",
    "postgresql:///films?host=/run/postgresql",
    "postgresql://%2Frun%2Fpostgresql/films",
    "postgresql://u:p@one:5432,two:5433/films?target_session_attrs=read-write",
    "postgresql://u:p%40@[::1]:5432/films",
    "postgresql://one,[::1]/films",
    "postgresql://u:p[x]#?@h/films",
]


@pytest.mark.parametrize("url", DATABASE_URLS)
def test_what_postgres_takes_as_a_url_is_taken(url: str) -> None:
    conninfo_to_dict(url)
    assert read_settings({"DATABASE_URL": url}).database_url == url


BAD_DATABASE_URLS = [
    f"postgresql://u:{SECRET}@[",
    f"postgresql://u:{SECRET}@[::1/films",
    f"postgresql://u:{SECRET}@[]/films",
    f"postgresql://u:{SECRET}@[::1]x/films",
    f"postgresql://u:{SECRET}%@h/films",
    f"postgresql://u:{SECRET}%zz@h/films",
]


@pytest.mark.parametrize("url", ["postgresql://[", *BAD_DATABASE_URLS])
def test_what_postgres_does_not_take_is_refused(url: str) -> None:
    with pytest.raises(ProgrammingError):
        conninfo_to_dict(url)
    assert said_of({"DATABASE_URL": url}).startswith("DATABASE_URL must be a postgresql:// URL")


def test_memory_is_asked_for_by_the_database_alone() -> None:
    assert read_settings({"DATABASE_URL": "memory:"}).in_memory
    assert not read_settings({"DATABASE_URL": "postgresql://h/films"}).in_memory
    assert not read_settings({"IMAGE_STORE_URL": "memory:"}).in_memory


# ---- bad values ----

_PORT = "must be an integer from 0 to 65535"
_SIZE = "must be a size: a whole number with one of b, kb, mb, gb, kib, mib, gib"
_DURATION = "must be a duration: a whole number with one of ms, s, m, min, h, d, day, days"
_ORIGINS = "must be a comma list of origins (scheme and host in ASCII, no path), or *"
_HOSTS = "must be a comma list of host names (no scheme, port, path or pattern), or *"
_DATABASE = "must be a postgresql:// URL, with odd characters as %XX, or memory:"
_STORE = "must be a file:// or cloudinary:// URL or memory:"
_FOLDER = "must name a folder by its whole path, with three slashes and odd characters as %XX"
_CLOUDINARY = "must be cloudinary://key:secret@cloud"
_NETWORKS = "must be a comma list of IP addresses and networks"
_BEGINNING = "must have networks that begin with their address, as 10.0.0.0/8 does"
_NOBODY = "must be a path, and nobody knows the home directory that it begins with"

EXAMPLES = {
    "PORT": "8080",
    "WORKERS": "2",
    "PUBLIC_URL": "https://movies.example",
    "ENVIRONMENT": "production",
    "SERVICE": "movies,images",
    "JWKS_URL": "https://movies.example/.well-known/jwks.json",
    "RELAY": "on",
    "NATS_URL": "nats://user:password@127.0.0.1:4222",
    "BROKER_URL": "kafka://127.0.0.1:9092",
    "WEBHOOK_PRIVATE": "on",
    "CACHE": "local",
    "CACHE_BYTES": "64 MB",
    "VALKEY_URL": "valkey://user:password@127.0.0.1:6379/0",
    "RATE_LIMIT": "600/1 min",
    "RATE_LIMIT_FALLBACK": "refuse",
    "WATCHLY_HOME": "/srv/watchly",
    "DATABASE_URL": "postgresql://user:password@localhost/watchly",
    "READ_DATABASE_URL": "postgresql://user:password@replica/watchly",
    "IMAGE_STORE_URL": "file:///srv/images",
    "CLOUDINARY_URL": "cloudinary://key:secret@cloud",
    "SECRET_KEY": "the output of: openssl rand -hex 32",
    "AUTH": "off",
    "PUBLIC_READ": "false",
    "REGISTRATION": "open",
    "CORS_ORIGINS": "https://app.example,http://localhost:3000",
    "TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8",
    "ALLOWED_HOSTS": "movies.example,www.movies.example",
    "MAX_JSON_BYTES": "1 MB",
    "MAX_IMAGE_BYTES": "500 MB",
    "MAX_IMPORT_BYTES": "1 GB",
    "MAX_PAGE_LIMIT": "200",
    "MAX_REQUESTS": "1000",
    "REQUEST_TIMEOUT": "15 s",
    "DRAIN_TIMEOUT": "10 s",
    "IMAGE_GRACE": "30 days",
    "LOG_RETENTION": "365 days",
    "SWEEP_INTERVAL": "30 s",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "warning",
    "SLOW_STATEMENT": "500 ms",
    "SERVER_TIMING": "on",
    "METRICS_PORT": "9464",
}
BAD: list[tuple[str, str, list[str]]] = [
    ("SLOW_STATEMENT", _DURATION, ["fast", "0.5 s", "-1"]),
    ("SERVER_TIMING", "must be on or off", ["yes", "1"]),
    ("METRICS_PORT", _PORT, ["-1", "65536"]),
    ("PORT", _PORT, ["-1", "65536", "http", "80.0", "8 0", "٣", "00000000065536", "9" * 5000]),
    ("WORKERS", "must be an integer from 1 to 512", ["0", "513", "all"]),
    (
        "PUBLIC_URL",
        "must be an http or https URL",
        [
            "films.example",
            "ftp://films.example",
            "https://",
            "https://a?b",
            "https://a#b",
            "http://[",
            "http://a:b",
        ],
    ),
    ("ENVIRONMENT", "must be one of development, production", ["staging", "prod"]),
    (
        "SERVICE",
        "must be a comma list of some of movies, images, people, changes",
        ["movie", "movies;images", "all", "*", ",", "movies,health"],
    ),
    (
        "JWKS_URL",
        "must be an http or https URL without a password",
        [
            "films.example/jwks.json",
            "ftp://h/x",
            "https://",
            f"https://u:{SECRET}@h/x",
            "http://[",
            "http://h/#x",
        ],
    ),
    ("WATCHLY_HOME", _NOBODY, ["~nosuchuser/x"]),
    ("RELAY", "must be on or off", ["yes", "1", "relay"]),
    ("WEBHOOK_PRIVATE", "must be on or off", ["10.0.0.0/8"]),
    ("CACHE", "must be one of off, local, shared", ["on", "true", "valkey"]),
    ("CACHE_BYTES", "must be more than 0", ["0", "0 MB"]),
    (
        "VALKEY_URL",
        "must be a valkey:// or valkeys:// URL (redis:// and rediss:// are the same)",
        ["127.0.0.1:6379", "http://h", "valkey://", "valkey:h", "unix:///s", f"valkey://u:{SECRET}@["],
    ),
    (
        "VALKEY_URL",
        "must end with the host, its port, or the number of a database",
        [f"valkey://:{SECRET}@h/films", "valkey://h/0?db=1", "valkey://h/0/1", "redis://h#x"],
    ),
    (
        "RATE_LIMIT",
        "must be a number of requests, a slash and a duration",
        ["100", "100/", "/1s", "0/1s", "-1/1s", "1.5/1s", "1000000000/1s", "on", "100 per 1s", "٣/1s"],
    ),
    ("RATE_LIMIT", _DURATION, ["100/s", "100/1 week", "100/1s,600/1 min", "100/1/2"]),
    (
        "RATE_LIMIT",
        "must have a duration of whole seconds, up to a day",
        ["100/0s", "100/500 ms", "100/1500 ms", "100/2 days"],
    ),
    ("RATE_LIMIT_FALLBACK", "must be one of local, allow, refuse", ["deny", "on", "503"]),
    (
        "BROKER_URL",
        "must be one that an installed package knows, and none does",
        ["nats://h", "kafka://h", "x"],
    ),
    (
        "NATS_URL",
        "must be a nats:// or tls:// URL, or a comma list of those of a cluster",
        [
            "127.0.0.1:4222",
            "http://h",
            "nats://",
            ",",
            "nats://h,h",
            "nats://h/films",
            f"nats://u:{SECRET}@[",
        ],
    ),
    (
        "DATABASE_URL",
        _DATABASE,
        ["mysql://h/films", "memory", "postgresql:h", "postgresql://[", *BAD_DATABASE_URLS],
    ),
    (
        "READ_DATABASE_URL",
        "must be a postgresql:// URL, with odd characters as %XX",
        ["memory:", "mysql://h/films", "postgresql:h", *BAD_DATABASE_URLS],
    ),
    (
        "IMAGE_STORE_URL",
        _STORE,
        [
            "/srv/images",
            "s3://bucket",
            "memory",
            "https://images.example",
            f"cloudinary://1:{SECRET}@[",
            "file://[",
        ],
    ),
    (
        "IMAGE_STORE_URL",
        _FOLDER,
        ["file://srv/images", "file:images", "file:", "file://", "file:///a?b", "file:///a#b"],
    ),
    (
        "IMAGE_STORE_URL",
        _CLOUDINARY,
        [
            "cloudinary://bad",
            f"cloudinary://1:{SECRET}@",
            f"cloudinary://:{SECRET}@films",
            "cloudinary://1:@films",
        ],
    ),
    (
        "CLOUDINARY_URL",
        _CLOUDINARY,
        [
            f"https://1:{SECRET}@films",
            f"cloudinary://1:{SECRET}",
            "cloudinary://films",
            f"cloudinary://1:{SECRET}@[",
            # urlsplit quotes it in its own words, because U+2100 becomes a/c.
            f"cloudinary://1:{SECRET}@\u2100",
        ],
    ),
    ("SECRET_KEY", "must have at least 32 characters", ["s3cret", "x" * 31]),
    ("SECRET_KEY", "must be text in UTF-8", [SECRET + os.fsdecode(b"\xff")]),
    ("AUTH", "must be on or off", ["no", "0", "of", "disabled", "none"]),
    ("PUBLIC_READ", "must be on or off", ["no", "1", "public"]),
    ("REGISTRATION", "must be one of open, closed", ["on", "off", "true", "public"]),
    (
        "TRUSTED_PROXIES",
        _NETWORKS,
        [
            "*",
            "proxy.example",
            "1",
            "127.0.0.1:80",
            "[::1]",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "10.0.0.1-10.0.0.9",
            "010.0.0.1",
            "10.0.0.0/8 10.1.0.0/16",
            "10.0.0.0/\u0668",
            "::/129",
            "::1,nobody",
            "9" * 5000,
        ],
    ),
    ("TRUSTED_PROXIES", _BEGINNING, ["10.0.0.5/8", "fd00::1/8", "127.0.0.1,10.1.2.3/24"]),
    (
        "TRUSTED_PROXIES",
        "must have IPv6 addresses without the names of interfaces",
        ["fe80::1%eth0", "fe80::%eth0/64"],
    ),
    (
        "CORS_ORIGINS",
        _ORIGINS,
        [
            "app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://app.example,ftp://app.example",
            f"https://user:{SECRET}@app.example",
            "https://app.example?",
            "https://app.example:99999",
            "https://app.example:https",
            "https://[",
            "https://",
            "https://f\u00ealm.example",
            "null",
        ],
    ),
    (
        "ALLOWED_HOSTS",
        _HOSTS,
        [
            "films.example:8080",
            "https://films.example",
            "films.example/x",
            "*.films.example",
            "a b",
            "f\u00ealm.example",
        ],
    ),
    ("MAX_JSON_BYTES", _SIZE, ["1.5 MB", "-1", "MB", "1 TB", "1  MB", "1 000", "many", "9" * 5000]),
    ("MAX_JSON_BYTES", "must be more than 0", ["0", "0 MB"]),
    ("MAX_IMAGE_BYTES", _SIZE, ["1 m", "1,000"]),
    ("MAX_IMPORT_BYTES", _SIZE, ["1 TB", "1.5 GB"]),
    ("MAX_IMAGE_BYTES", "must be more than 0", ["0"]),
    ("MAX_PAGE_LIMIT", "must be an integer from 1 to 10000", ["0", "10001", "00000000010001"]),
    ("MAX_REQUESTS", "must be an integer from 1 to 100000", ["0", "100001", "many", "-1", "1 000"]),
    ("REQUEST_TIMEOUT", _DURATION, ["soon", "-1 s", "1.5 s"]),
    ("REQUEST_TIMEOUT", "must be 10 ms at least", ["0", "0 s", "9 ms"]),
    ("DRAIN_TIMEOUT", _DURATION, ["ten", "-1 s", "1 week", "1.5 h", "1 mb"]),
    ("DRAIN_TIMEOUT", "must be at most a hundred years", ["36601 d", "999999999999999 d"]),
    ("IMAGE_GRACE", _DURATION, ["for ever"]),
    ("LOG_RETENTION", _DURATION, ["for ever", "-1 d"]),
    ("SWEEP_INTERVAL", _DURATION, ["often", "-1"]),
    ("IMAGE_GRACE", "must be at most a hundred years", ["36601 d"]),
    ("LOG_FORMAT", "must be one of console, json", ["text"]),
    ("LOG_LEVEL", "must be one of debug, info, warning, error", ["warn", "critical"]),
]


@pytest.mark.parametrize(("variable", "fault", "texts"), BAD)
def test_a_bad_value_is_one_line_with_the_variable_the_fault_and_an_example(
    variable: str, fault: str, texts: list[str]
) -> None:
    for text in texts:
        said = said_of({variable: text})
        assert said == f"{variable} {fault}; an example: {variable}={EXAMPLES[variable]}", text
        assert said.isprintable()


# A broker is known where a package for it is installed.
@pytest.mark.parametrize("variable", set(EXAMPLES) - {"SECRET_KEY", "BROKER_URL"})
def test_the_examples_are_good_values(variable: str) -> None:
    others = {"DATABASE_URL": EXAMPLES["DATABASE_URL"], "SERVICE": EXAMPLES["SERVICE"]}
    read_settings({**others, variable: EXAMPLES[variable]})


def test_every_variable_has_a_bad_value_above() -> None:
    # Any text is a host; what is wrong about traces is found out where they begin.
    read = {variable for variable, _, _ in BAD} | {"HOST", "TRACES"}
    assert {field(variable) for variable in read} == set(Settings.__struct_fields__)


# ---- traces ----


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "films"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_traces_are_made_where_they_have_somewhere_to_go(environment: dict[str, str], wanted: bool) -> None:
    assert read_settings({**environment, "PATH": "/bin"}).traces == (environment if wanted else None)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_traces_go_to_an_address(name: str) -> None:
    said = said_of({name: "collector:4318"})

    assert said == f"{name} must be an http or https URL; an example: {name}=http://127.0.0.1:4318"


# ---- what everybody may do ----


@pytest.mark.parametrize(
    ("environment", "everybody"),
    [
        ({}, {Permission.READ}),
        ({"PUBLIC_READ": "off"}, set()),
        ({"REGISTRATION": "open"}, {Permission.READ, Permission.REGISTER}),
        ({"REGISTRATION": "open", "PUBLIC_READ": "off"}, {Permission.REGISTER}),
        ({"AUTH": "off"}, set(Permission)),
        ({"AUTH": "off", "PUBLIC_READ": "off", "REGISTRATION": "closed"}, set(Permission)),
    ],
)
def test_what_everybody_may_do(environment: dict[str, str], everybody: set[Permission]) -> None:
    assert read_settings(environment).everybody == everybody


# ---- replicas ----


@pytest.mark.parametrize("primary", [{}, {"DATABASE_URL": "memory:"}, {"DATABASE_URL": " "}])
def test_a_replica_without_a_server_that_could_have_one_is_refused(primary: dict[str, str]) -> None:
    said = said_of({**primary, "READ_DATABASE_URL": f"postgresql://u:{SECRET}@h/films"})
    assert said.startswith(
        "READ_DATABASE_URL names a replica, and DATABASE_URL no server that could have one"
    )
    assert SECRET not in said


def test_a_replica_of_a_server_is_read_from() -> None:
    given = {"DATABASE_URL": "postgresql://h/films", "READ_DATABASE_URL": "postgresql://r/films"}
    assert read_settings(given).read_database_url == "postgresql://r/films"


# ---- separate services ----

KEYS = "http://127.0.0.1:5000/.well-known/jwks.json"


@pytest.mark.parametrize("service", ["", "people", "movies,people"])
def test_who_has_the_keys_does_not_ask_others_for_them(service: str) -> None:
    assert said_of({"SERVICE": service, "JWKS_URL": KEYS}) == (
        "JWKS_URL is for a service without people, and this one has the keys itself;"
        " an example: SERVICE=movies,images,changes"
    )


@pytest.mark.parametrize(
    ("environment", "needed"),
    [
        ({}, True),
        ({"SERVICE": "movies"}, True),
        ({"SERVICE": "movies,changes", "JWKS_URL": KEYS}, False),
        # Tickets for files are signed here; those of Cloudinary are signed with its own secret.
        ({"SERVICE": "movies,images", "JWKS_URL": KEYS}, True),
        ({"SERVICE": "images", "JWKS_URL": KEYS, "IMAGE_STORE_URL": "file:///srv/images"}, True),
        ({"SERVICE": "images", "JWKS_URL": KEYS, "CLOUDINARY_URL": "cloudinary://1:s@films"}, False),
    ],
)
def test_a_secret_is_needed_where_something_is_signed(environment: dict[str, str], *, needed: bool) -> None:
    assert read_settings(environment).needs_secret() is needed


# ---- caches ----


def test_a_shared_cache_needs_to_be_told_where_it_is() -> None:
    said = said_of({"CACHE": "shared"})
    assert said == (
        "VALKEY_URL is missing, and CACHE is shared;"
        " an example: VALKEY_URL=valkey://user:password@127.0.0.1:6379/0"
    )
    assert read_settings({"CACHE": "shared", "VALKEY_URL": "valkey://h"}).cache == "shared"


# ---- empty ----


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_an_empty_variable_is_unset(empty: str) -> None:
    environment = dict.fromkeys([*EXAMPLES, *TRIO, "HOST"], empty)
    assert read_settings(environment) == read_settings({})


def test_other_variables_do_not_matter() -> None:
    assert read_settings({"PATH": "/bin", "port": "1", "WATCHLY_PORT": "1"}) == read_settings({})


# ---- the stores of images ----


def test_the_three_variables_of_cloudinary_make_its_url() -> None:
    assert read_settings(TRIO).image_store_url == f"cloudinary://123:{SECRET}@films"
    odd = {**TRIO, "CLOUDINARY_API_SECRET": "a/b@c:d?e#f%g"}
    assert read_settings(odd).image_store_url == "cloudinary://123:a%2Fb%40c%3Ad%3Fe%23f%25g@films"


@pytest.mark.parametrize("missing", TRIO)
@pytest.mark.parametrize("how", [{}, {"": ""}])
def test_two_of_the_three_are_too_few(missing: str, how: dict[str, str]) -> None:
    given = {name: value for name, value in TRIO.items() if name != missing}
    said = said_of({**given, **dict.fromkeys([missing] if how else [], "")})
    assert said.startswith(
        f"{missing} is missing, while other CLOUDINARY_ variables are set; an example: {missing}="
    )
    assert said.isprintable()
    assert SECRET not in said


def test_one_store_of_images_goes_before_another() -> None:
    file, url = {"IMAGE_STORE_URL": "file:///srv/images"}, {"CLOUDINARY_URL": "cloudinary://1:s@two"}
    assert read_settings({**TRIO, **url, **file}).image_store_url == "file:///srv/images"
    assert read_settings({**TRIO, **url}).image_store_url == "cloudinary://1:s@two"
    assert read_settings({**TRIO, **url, "IMAGE_STORE_URL": ""}).image_store_url == "cloudinary://1:s@two"
    few = {"CLOUDINARY_API_KEY": "123"}
    assert read_settings({**few, **file}).image_store_url == "file:///srv/images"
    assert read_settings({**few, **url}).image_store_url == "cloudinary://1:s@two"


# ---- secrets ----


def test_nothing_that_prints_settings_tells_a_secret() -> None:
    settings = read_settings(
        {
            **TRIO,
            "DATABASE_URL": f"postgresql://u:{SECRET}@h/films",
            "SECRET_KEY": SECRET,
        }
    )
    assert settings.secret_key == SECRET
    for printed in (repr(settings), str(settings), f"{settings}", f"{[settings]}", pretty_repr(settings)):
        assert "s3cret" not in printed
        assert printed.strip("[]").startswith("Settings(")


def test_no_refusal_tells_a_secret() -> None:
    for variable, _, texts in BAD:
        for text in texts:
            assert "s3cret" not in said_of({variable: text})


# ---- the file ----


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file would be, in a process whose environment says nothing of Watchly."""
    for variable in [*EXAMPLES, *TRIO, "HOST"]:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / ".env"


def test_without_a_file_the_environment_speaks(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(dotenv) == read_settings({})
    monkeypatch.setenv("PORT", "8080")
    assert load_settings(dotenv).port == 8080
    assert load_settings(dotenv.parent).port == 8080


def test_a_file_is_read(dotenv: Path) -> None:
    dotenv.write_text('# films\nPORT=8080\nexport HOST="::1"\nLOG_LEVEL=\nWORKERS\n')
    settings = load_settings(dotenv)
    assert (settings.port, settings.host, settings.log_level) == (8080, "::1", "info")
    assert settings.workers == read_settings({}).workers
    assert "PORT" not in os.environ


def test_the_file_is_that_of_the_working_directory(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv.write_text("PORT=8080\n")
    monkeypatch.chdir(dotenv.parent)
    assert load_settings().port == 8080


def test_the_real_environment_wins(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv.write_text("PORT=8080\nHOST=::1\nLOG_LEVEL=error\n")
    monkeypatch.setenv("PORT", "9090")
    monkeypatch.setenv("LOG_LEVEL", "")
    settings = load_settings(dotenv)
    assert (settings.port, settings.host, settings.log_level) == (9090, "::1", "info")


def test_a_bad_value_in_the_file_is_refused(dotenv: Path) -> None:
    dotenv.write_text("PORT=http\n")
    with pytest.raises(Misconfigured, match=r"^PORT must be"):
        load_settings(dotenv)


@pytest.mark.parametrize("content", [b"HOST=\xff\xfe", "PORT=1".encode("utf-16")])
def test_a_file_that_is_no_text_is_named(dotenv: Path, content: bytes) -> None:
    dotenv.write_bytes(content)
    with pytest.raises(Misconfigured) as raised:
        load_settings(dotenv)
    assert str(raised.value).startswith(f"{dotenv} must be text in UTF-8")
    assert str(raised.value).isprintable()
