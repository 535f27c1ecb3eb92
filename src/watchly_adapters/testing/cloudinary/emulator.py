"""The emulator as a whole: an account behind a server, while a block runs or a process."""

from __future__ import annotations

import collections
import signal
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlsplit

from watchly_adapters.testing.cloudinary.account import Account
from watchly_adapters.testing.cloudinary.assets import Asset
from watchly_adapters.testing.cloudinary.faults import Faults
from watchly_adapters.testing.cloudinary.messages import Answer, Reply, Request
from watchly_adapters.testing.cloudinary.notifications import Notifier
from watchly_adapters.testing.cloudinary.server import Server
from watchly_adapters.testing.cloudinary.signatures import Algorithm, Credentials
from watchly_core.errors import Misconfigured

#: How many of the requests are remembered.
_REMEMBERED: Final = 10_000

_STOPS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


class CloudinaryEmulator:
    """Serves one account while it is entered.

    Args:
        cloud_name: the account's cloud.
        api_key: the account's key.
        api_secret: the account's secret.
        max_bytes: the largest image that the account's plan takes.
        port: where to listen; 0 for any free port.
        algorithm: by which the account signs what it sends.
        hourly_lookups: how often the Admin API may be asked in an hour.

    Attributes:
        answer: what answers each request; put another one there to change or break the replies.
        faults: what goes wrong on the way.
        requests: the latest requests, as "POST /v1_1/…".
    """

    def __init__(  # noqa: PLR0913 - an account's settings, each with its name
        self,
        cloud_name: str = "emulated",
        api_key: str = "123456789012345",
        api_secret: str = "emulated-Secret_of-27-chars",  # noqa: S107 - it guards nothing
        *,
        max_bytes: int | None = None,
        port: int = 0,
        algorithm: Algorithm = "sha1",
        hourly_lookups: int = 1_000_000,
    ) -> None:
        self.cloud_name: str = cloud_name
        self.api_key: str = api_key
        self.api_secret: str = api_secret
        self._credentials = Credentials(cloud_name, api_key, api_secret, algorithm)
        self._max_bytes, self._port, self._hourly_lookups = max_bytes, port, hourly_lookups
        self.answer: Answer = self.account
        self.faults: Faults = Faults()
        self.requests: collections.deque[str] = collections.deque(maxlen=_REMEMBERED)

    def __enter__(self) -> Self:
        """Listen."""
        with ExitStack() as stack:
            self.directory: Path = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="watchly-cloudinary-"))
            )
            notifier = Notifier(self._credentials)
            stack.callback(notifier.close)
            self._account = Account(
                self._credentials,
                self.directory,
                notifier.send,
                max_bytes=self._max_bytes,
                hourly_lookups=self._hourly_lookups,
            )
            self._server = Server(self, self._port, self.directory)
            stack.callback(self._server.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and forget everything."""
        self._stack.close()

    @property
    def upload_prefix(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """The account as a ``cloudinary://`` URL that leads here."""
        secret = quote(self.api_secret, safe="")
        prefix = quote(self.upload_prefix, safe="")
        account = f"cloudinary://{self.api_key}:{secret}@{self.cloud_name}"
        return f"{account}?upload_prefix={prefix}&delivery_prefix={prefix}"

    def delivery_url(self, url: str) -> str:
        """Where this server has what `url`, one of Cloudinary's CDN, names."""
        return self.upload_prefix + urlsplit(url).path

    @property
    def assets(self) -> Mapping[str, Asset]:
        """What is kept, by public id."""
        return self._account.assets.kept

    @property
    def invalidated(self) -> collections.deque[str]:
        """The public ids that the CDN was asked to forget, the latest last."""
        return self._account.invalidated

    def account(self, request: Request) -> Reply:
        """What the real one would answer."""
        return self._account.answer(request)

    def asked(self, request: str) -> None:
        """Take note of a request."""
        self.requests.append(request)


def run_cloudinary(port: int, show: Callable[[str], None], say: Callable[[str], None]) -> None:
    """Serve an account until the process is told to stop.

    Args:
        port: where; 0 takes a free one.
        show: gives the user the setting that leads there.
        say: tells the user what else there is to know, line by line.

    Raises:
        Misconfigured: the port cannot be had.
    """
    # Blocked in every thread, and waited for: no handler has to be safe at any moment.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        with CloudinaryEmulator(port=port) as emulator:
            show(f"CLOUDINARY_URL={emulator.url}")
            say(f"Assets are kept in {emulator.directory} until this is told to stop (Ctrl-C)")
            signal.sigwait(_STOPS)
    except OSError as error:
        raise Misconfigured(f"cannot listen at port {port}: {error.strerror}; try another --port") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
