"""Images in a bucket of Amazon S3, or of any server that speaks its protocol."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from typing import IO, TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from watchly_adapters.headers import measure
from watchly_adapters.settings import Settings
from watchly_core.errors import ImageRejected, Misconfigured, Unavailable
from watchly_core.images import VARIANTS, Image, StoredImage, Ticket, is_key
from watchly_core.threads import Threads

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

#: What one request can store (Amazon S3 API reference, PutObject).
MAX_BYTES: Final = 5 * 1024**3
#: Bytes of an image in which its header is looked for.
HEAD: Final = 1_000_000
#: Calls at a time: they block.
CALLS: Final = 8
#: Seconds for a connection, and for each answer.
PATIENCE: Final = 10


def make_images(settings: Settings) -> S3Images:
    """The store that ``IMAGE_STORE_URL=s3://bucket/prefix`` names; who asks is told by the AWS_ variables.

    Options of the URL: ``endpoint`` for another server than Amazon's, ``region``, and ``public`` for where
    browsers load images, if that is not the bucket itself, such as a CDN that makes the variants.

    Raises:
        Misconfigured: it names no bucket.
    """
    url = urlsplit(settings.image_store_url or "")
    options = {name: values[-1] for name, values in parse_qs(url.query).items()}
    if not url.netloc:
        raise Misconfigured("IMAGE_STORE_URL names no bucket; an example: IMAGE_STORE_URL=s3://films/images")
    config = Config(
        connect_timeout=PATIENCE,
        read_timeout=PATIENCE,
        max_pool_connections=CALLS,
        retries={"max_attempts": 3, "mode": "standard"},
        s3={"addressing_style": "path" if "endpoint" in options else "virtual"},
        signature_version="s3v4",
    )
    endpoint, region = options.get("endpoint"), options.get("region", "us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    place = f"{endpoint}/{url.netloc}" if endpoint else f"https://{url.netloc}.s3.{region}.amazonaws.com"
    return S3Images(client, url.netloc, url.path.strip("/"), options.get("public", place))


class S3Images:
    """Satisfies `ports.ImageStore`.

    Args:
        client: of boto3.
        bucket: where the images are; browsers may read it.
        prefix: what the names of all objects begin with; may be empty.
        public: the URL below which browsers find the bucket.
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str, public: str) -> None:
        self._client, self._bucket, self._prefix, self._public = client, bucket, prefix, public.rstrip("/")
        self._threads = Threads(CALLS, "watchly-s3")

    @property
    def max_bytes(self) -> int:
        return MAX_BYTES

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        name = self._name(key)
        if image.bytes > MAX_BYTES:
            raise ImageRejected("the image is larger than the image store takes")

        def send() -> None:
            source.seek(0)
            self._client.put_object(
                Bucket=self._bucket, Key=name, Body=source, ContentType=f"image/{image.format}"
            )

        await self._call(send)

    async def delete(self, key: str) -> None:
        if is_key(key):
            await self._call(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._name(key)))

    async def stat(self, key: str) -> StoredImage | None:
        if not is_key(key):
            return None

        def ask() -> StoredImage | None:
            name = self._name(key)
            try:
                size = self._client.head_object(Bucket=self._bucket, Key=name)["ContentLength"]
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise
            if size == 0:
                return StoredImage(0)
            # S3 looks into nothing: what a ticket brought is what its own header says.
            head = self._client.get_object(
                Bucket=self._bucket, Key=self._name(key), Range=f"bytes=0-{HEAD - 1}"
            )
            try:
                seen = measure(BytesIO(head["Body"].read()))
            except ImageRejected:
                return StoredImage(size)
            return StoredImage(size, seen.width, seen.height, seen.format)

        return await self._call(ask)

    def url(self, key: str, variant: str | None = None) -> str:
        if variant is not None and variant not in VARIANTS:
            raise ValueError(f"there is no variant {variant!r}")
        # S3 gives the original; a CDN before it may make what is asked for.
        return f"{self._public}/{self._name(key)}" + (f"?variant={variant}" if variant else "")

    def ticket(self, key: str, image: Image, expires_at: datetime) -> Ticket:
        seconds = int((expires_at - datetime.now(UTC)).total_seconds())
        content_type = f"image/{image.format}"
        post = self._client.generate_presigned_post(
            self._bucket,
            self._name(key),
            Fields={"Content-Type": content_type},
            Conditions=[{"Content-Type": content_type}, ["content-length-range", 1, image.bytes]],
            ExpiresIn=seconds,
        )
        return Ticket(key, "POST", post["url"], {}, post["fields"], expires_at)

    def close(self) -> None:
        self._client.close()

    def _name(self, key: str) -> str:
        if not is_key(key):
            raise ValueError("has not the form of a key")
        return f"{self._prefix}/{key}" if self._prefix else key

    async def _call(self, call: Callable[[], T]) -> T:
        """What a call comes to; who is cancelled waits for its end, for it may read a file of theirs."""
        try:
            return await self._threads.lend(lambda _: call())
        except (BotoCoreError, ClientError) as error:
            raise Unavailable("image_store", str(error)) from error
