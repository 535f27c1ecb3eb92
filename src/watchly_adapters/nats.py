"""Telling a NATS server of changes: messages of a JetStream, each kept once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error, NoServersError
from nats.js.api import Header, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from watchly_core.errors import PublishRejected, Unavailable
from watchly_core.messages import MEDIA_TYPE, Message
from watchly_core.traces import current_trace

__all__ = ["NatsPublisher"]

#: The stream that is made if there is none for these subjects, which are ``watchly.KIND.MOVIE``.
STREAM: Final = "WATCHLY"
SUBJECTS: Final = "watchly.>"

#: Seconds within which the server drops repeats by their id; it holds the ids in memory for as long.
#: A message is repeated soon, after a relay has died; whoever reads the stream later drops repeats as well.
DUPLICATE_WINDOW: Final = 600.0

#: Seconds for a connection, and for an answer.
TIMEOUT: Final = 5.0

#: Seconds for closing a connection: what a server does not read any more cannot be waited for.
_CLOSING: Final = 1.0

#: Seconds between signs of life that the server is asked for, and how many may be missing.
_PING_EVERY: Final = 10
_MISSED: Final = 2

#: What surrounds the headers of a message.
_HEAD: Final = b"NATS/1.0\r\n\r\n"

#: What the server says of a message that its stream does not take for its size.
_TOO_LARGE: Final = 10_054


class NatsPublisher:
    """Satisfies `ports.Publisher`; it connects when it is first used, and again when the server was gone.

    Args:
        url: the address of a server, or a comma list of those of a cluster.
        timeout: seconds for a connection, and for an answer.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        self._servers, self._timeout = [part.strip() for part in url.split(",")], timeout
        self._connecting = asyncio.Lock()
        self._client: Client | None = None
        self._stream: JetStreamContext | None = None
        self._trouble = ""

    async def publish(self, message: Message) -> None:
        """See the port."""
        stream: JetStreamContext | None = None
        try:
            with self._translated():
                stream = await self._connected()
                headers = {Header.MSG_ID.value: message.id, "Content-Type": MEDIA_TYPE}
                if trace := current_trace() or message.trace:
                    headers["traceparent"] = trace
                self._measure(message, headers)
                # The client's own time is that of the answer: it would wait for a full buffer without end.
                async with asyncio.timeout(self._timeout):
                    await stream.publish(
                        f"watchly.{message.kind}.{message.movie_id}",
                        message.body,
                        timeout=self._timeout,
                        headers=headers,
                    )
        except Unavailable as error:
            # The server may be gone without a word, or the stream: the next one shall have a new connection,
            # unless there is one by now.
            lost = isinstance(error.__cause__, TimeoutError | NoStreamResponseError)
            if lost and stream is not None and stream is self._stream:
                await self.close()
            raise

    async def ping(self) -> None:
        """Ask the server for a sign of life, and whether it keeps messages.

        Raises:
            Unavailable: it gives none, or does not.
        """
        client = _Client()
        try:
            with self._translated():
                async with asyncio.timeout(self._timeout):
                    stream = await self._open(client)
                    await stream.account_info()
        finally:
            await _close(client)

    async def close(self) -> None:
        """Close the connection; the next message opens another."""
        client, self._client, self._stream = self._client, None, None
        if client is not None:
            await _close(client)

    def _measure(self, message: Message, headers: Mapping[str, str]) -> None:
        """Refuse what the server would close the connection for; it counts the headers as well."""
        lines = sum(len(name) + len(value) + 4 for name, value in headers.items())
        if self._client is not None and len(message.body) + len(_HEAD) + lines > self._client.max_payload:
            raise PublishRejected("the message is larger than the server takes")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the client's errors into the core's."""
        try:
            yield
        except APIError as error:
            if error.err_code == _TOO_LARGE:
                raise PublishRejected("the message is larger than the stream takes") from None
            raise Unavailable("broker", f"the stream does not take it: {error.description}") from error
        except TimeoutError as error:
            raise Unavailable("broker", f"no answer within {self._timeout:g} s") from error
        except NoStreamResponseError as error:
            raise Unavailable("broker", "there is no stream for it") from error
        except NoServersError as error:
            raise Unavailable("broker", f"nobody answers there: {self._trouble}") from error
        except (Error, OSError) as error:
            raise Unavailable("broker", str(error) or type(error).__name__) from error

    async def _connected(self) -> JetStreamContext:
        """The stream of a connection that is there as far as it knows."""
        async with self._connecting:
            if self._stream is None or self._client is None or not self._client.is_connected:
                await self.close()
                self._client = _Client()
                try:
                    async with asyncio.timeout(self._timeout):
                        self._stream = await self._connect(self._client)
                except BaseException:
                    await self.close()
                    raise
            return self._stream

    async def _connect(self, client: Client) -> JetStreamContext:
        stream = await self._open(client)
        try:
            # Whoever runs the server may have made one to their liking.
            await stream.find_stream_name_by_subject(SUBJECTS)
        except NotFoundError:
            await stream.add_stream(
                StreamConfig(
                    name=STREAM,
                    subjects=[SUBJECTS],
                    storage=StorageType.FILE,
                    duplicate_window=DUPLICATE_WINDOW,
                )
            )
        return stream

    async def _open(self, client: Client) -> JetStreamContext:
        await client.connect(
            self._servers,
            name="watchly",
            # The relay asks again by itself; what the client would keep meanwhile came out of order.
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=max(1, round(self._timeout)),
            ping_interval=_PING_EVERY,
            max_outstanding_pings=_MISSED,
            error_cb=self._note,
        )
        return client.jetstream(timeout=self._timeout)

    async def _note(self, error: Exception) -> None:
        """Keep what the client meets on its way; in the end it says only that there was something."""
        self._trouble = str(error) or type(error).__name__


class _Client(Client):
    """One that says nothing in the clear to a server of a tls:// URL, and above all no password."""

    def _connect_command(self) -> bytes:
        server = self._current_server
        if server is not None and server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise Error("the server does not ask for TLS, and its URL does")
        return super()._connect_command()


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(_CLOSING):
            await client.close()
    except TimeoutError:
        # It would send first what is left; and has no way to do without.
        transport = client._transport  # noqa: SLF001 - see above
        if isinstance(transport, TcpTransport) and transport._io_writer is not None:  # noqa: SLF001
            transport._io_writer.transport.abort()  # noqa: SLF001
