"""An account at Cloudinary: its name and keys, its addresses, its signatures.

Importing the SDK reads every ``CLOUDINARY_…`` variable of the environment into a configuration that is
global to the process, and its functions fall back on it. Here each call names all that it would take from
there, so the fields of `Account` alone decide, and any number of accounts can live in one process.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec
from msgspec import Meta

from watchly_core.errors import Misconfigured
from watchly_core.images import VARIANTS, is_key

try:
    from cloudinary import utils
except ValueError as _error:
    raise Misconfigured("CLOUDINARY_URL must look like cloudinary://KEY:SECRET@CLOUD") from _error

#: How requests are signed (Cloudinary's "Generating authentication signatures").
Algorithm: TypeAlias = Literal["sha1", "sha256"]

_HOME: Final = "https://api.cloudinary.com"

_WANTED: Final = "a Cloudinary URL must look like cloudinary://KEY:SECRET@CLOUD"

#: Options of the SDK's URLs that change nothing here: images are served over TLS, by plain URLs.
_WITHOUT_EFFECT: Final = frozenset({"analytics", "cdn_subdomain", "secure", "secure_cdn_subdomain"})

#: All that a URL would otherwise take from the SDK's configuration.
_PLAIN: Final[Mapping[str, object]] = {
    "api_secret": "",
    "auth_token": False,
    "cdn_subdomain": False,
    "cname": None,
    "dpr": None,
    "force_version": True,
    "long_url_signature": False,
    "responsive_width": False,
    "secure": True,
    "secure_cdn_subdomain": False,
    "shorten": False,
    "sign_url": False,
    "use_fetch_format": False,
    "use_root_path": False,
}


class Options(msgspec.Struct, frozen=True):
    """What the query of an account's URL says.

    `max_bytes` is the largest image that the account's plan takes, `timeout` are seconds for each wait; the
    others are those of an `Account`.
    """

    upload_prefix: str | None = None
    delivery_prefix: str | None = None
    folder: str | None = None
    signature_algorithm: Algorithm = "sha1"
    secure_distribution: str | None = None
    private_cdn: bool = False
    max_bytes: Annotated[int, Meta(ge=1)] | None = None
    timeout: Annotated[float, Meta(gt=0, le=3600)] | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The options of a URL.

        Raises:
            Misconfigured: one of them is unknown, or not what it should be.
        """
        given = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
        if unknown := given.keys() - _WITHOUT_EFFECT - set(cls.__struct_fields__):
            raise Misconfigured(f"{_WANTED}; it knows no option {min(unknown)!r}")
        try:
            return msgspec.convert(given, cls, strict=False)
        except msgspec.ValidationError as error:
            words, _, name = str(error).rpartition(" - at `$.")
            raise Misconfigured(f"{_WANTED}; its option {name[:-1]!r} is wrong: {words}") from None


class Account(msgspec.Struct, frozen=True):
    """Whose images they are, and where.

    Args:
        cloud_name: the account's cloud.
        api_key: names who asks.
        api_secret: signs what is asked.
        upload_prefix: where the API answers, if not at Cloudinary's own address.
        delivery_prefix: where images are served, if not by Cloudinary's CDN.
        folder: comes before the keys in the assets' public ids.
        signature_algorithm: the one that the account asks for.
        secure_distribution: the host of a private CDN or CNAME, if the account has one.
        private_cdn: whether it has one, if only by its usual name.

    Raises:
        Misconfigured: something is missing or cannot be.
    """

    cloud_name: str
    api_key: str
    api_secret: str
    upload_prefix: str | None = None
    delivery_prefix: str | None = None
    folder: str = "watchly"
    signature_algorithm: Algorithm = "sha1"
    secure_distribution: str | None = None
    private_cdn: bool = False

    def __post_init__(self) -> None:
        """Check it."""
        if not (self.cloud_name and self.api_key and self.api_secret):
            raise Misconfigured("Cloudinary needs a cloud name, an API key and an API secret")
        for name in ("upload_prefix", "delivery_prefix"):
            if not (getattr(self, name) or "https://").startswith(("https://", "http://")):
                raise Misconfigured(f"Cloudinary's {name} must start with https:// or http://")
        msgspec.structs.force_setattr(self, "folder", self.folder.strip("/"))

    @classmethod
    def from_url(cls, url: str, *, folder: str = "watchly") -> Account:
        """The account of a URL such as ``cloudinary://KEY:SECRET@CLOUD``, as Cloudinary's console shows it.

        A path names the host of a private CDN. A query gives what else an `Account` has, such as
        ``?signature_algorithm=sha256``; see `Options`.

        Args:
            url: the URL.
            folder: the account's folder, unless the URL names one.

        Raises:
            Misconfigured: it does not look like that.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            raise Misconfigured(_WANTED) from None
        user, _, cloud_name = parts.netloc.rpartition("@")
        api_key, _, api_secret = user.partition(":")
        if parts.scheme != "cloudinary" or not (api_key and api_secret and cloud_name):
            raise Misconfigured(_WANTED)
        options = Options.from_url(url)
        return cls(
            cloud_name,
            unquote(api_key),
            unquote(api_secret),
            upload_prefix=options.upload_prefix,
            delivery_prefix=options.delivery_prefix,
            folder=folder if options.folder is None else options.folder,
            signature_algorithm=options.signature_algorithm,
            secure_distribution=parts.path.strip("/") or options.secure_distribution,
            private_cdn=options.private_cdn,
        )

    def public_id(self, key: str) -> str:
        """What Cloudinary calls the image with this key."""
        return f"{self.folder}/{key}" if self.folder else key

    def key(self, public_id: str) -> str | None:
        """The key of an image by what Cloudinary calls it; None if it is none of ours."""
        key = public_id.removeprefix(f"{self.folder}/") if self.folder else public_id
        return key if is_key(key) and self.public_id(key) == public_id else None

    def placed(self, key: str) -> dict[str, str]:
        """The fields that say where an image goes.

        Accounts since 2024 show an image in a folder only if they are told so apart from its public id;
        to older ones that field means nothing.
        """
        fields = {"public_id": self.public_id(key)}
        return fields | {"asset_folder": self.folder} if self.folder else fields

    def signed(self, fields: Mapping[str, str], timestamp: int) -> dict[str, str]:
        """`fields` as a request that Cloudinary takes for an hour after `timestamp`."""
        dated = {**fields, "timestamp": str(timestamp)}
        signature = str(utils.api_sign_request(dated, self.api_secret, self.signature_algorithm, 2))
        return {**dated, "signature": signature, "api_key": self.api_key}

    @property
    def basic(self) -> str:
        """What the Admin API wants as Authorization."""
        return "Basic " + base64.b64encode(f"{self.api_key}:{self.api_secret}".encode()).decode()

    def address(self, *path: str) -> str:
        """Where the API answers."""
        prefix = (self.upload_prefix or _HOME).rstrip("/")
        return "/".join((prefix, "v1_1", quote(self.cloud_name, safe=""), *map(quote, path)))

    def url(self, key: str, variant: str | None) -> str:
        """Where Cloudinary's CDN serves an image."""
        if variant is not None and variant not in VARIANTS:
            raise ValueError(f"{variant!r} is no variant")
        address, _ = utils.cloudinary_url(
            self.public_id(key),
            cloud_name=self.cloud_name,
            private_cdn=self.private_cdn or self.secure_distribution is not None,
            raw_transformation=None if variant is None else _transformation(variant),
            secure_distribution=self.secure_distribution,
            **_PLAIN,
        )
        if self.delivery_prefix is None:
            return str(address)
        return self.delivery_prefix.rstrip("/") + urlsplit(str(address)).path


def _transformation(name: str) -> str:
    """What the CDN does to an original; "limit" is a fit that enlarges nothing."""
    variant = VARIANTS[name]
    crop = "fill" if variant.fill else "limit"
    return f"c_{crop},h_{variant.height},w_{variant.width}/f_auto/q_auto"
