"""Each adapter beside the port that it satisfies, for the type checkers: a port is met by shape alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from watchly_adapters.cached import CachedQueries, CacheWatch, Unwatched
from watchly_adapters.cloudinary import CloudinaryImages
from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.headers import HeaderInspector
from watchly_adapters.memory import (
    MemoryCache,
    MemoryDatabase,
    MemoryImages,
    MemoryMovieQueries,
    MemoryMovies,
    MemoryRateLimiter,
    MemoryTransaction,
)
from watchly_adapters.memory.backlogs import MemoryBacklogs
from watchly_adapters.memory.events import MemoryEvents
from watchly_adapters.memory.image_ledger import MemoryImageLedger
from watchly_adapters.memory.people import (
    MemoryApiKeys,
    MemoryPeopleQueries,
    MemorySessions,
    MemorySigningKeys,
    MemoryUsers,
)
from watchly_adapters.memory.receipts import MemoryReceipts
from watchly_adapters.memory.relays import MemoryRelayLedger
from watchly_adapters.memory.throttles import MemoryThrottles
from watchly_adapters.meters import CacheMetrics
from watchly_adapters.nats import NatsPublisher
from watchly_adapters.partial import SerialTransactions
from watchly_adapters.pillow import PillowInspector
from watchly_adapters.postgres import (
    PostgresDatabase,
    PostgresJoinedTransactions,
    PostgresTransaction,
    PostgresTransactions,
)
from watchly_adapters.postgres.api_keys import PostgresApiKeys
from watchly_adapters.postgres.backlogs import PostgresBacklogs
from watchly_adapters.postgres.events import PostgresEvents
from watchly_adapters.postgres.hosts import JoinedQueries
from watchly_adapters.postgres.images import PostgresImageLedger
from watchly_adapters.postgres.movies import PostgresMovies
from watchly_adapters.postgres.people import PostgresPeopleQueries
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_adapters.postgres.receipts import PostgresReceipts
from watchly_adapters.postgres.relays import PostgresRelayLedger
from watchly_adapters.postgres.replicas import ReplicaQueries
from watchly_adapters.postgres.sessions import PostgresSessions
from watchly_adapters.postgres.signing_keys import PostgresSigningKeys
from watchly_adapters.postgres.throttles import PostgresThrottles
from watchly_adapters.postgres.users import PostgresUsers
from watchly_adapters.security import Argon2Hasher, PublishedKeys, SealedTokens
from watchly_adapters.testing.backlogs import BackloggedStore
from watchly_adapters.testing.histories import StoreFactory
from watchly_adapters.testing.image_stores import ServedStore
from watchly_adapters.testing.image_uploads import ReceivingStore
from watchly_adapters.testing.positions import PositionedStore
from watchly_adapters.testing.stores import Store
from watchly_adapters.valkey import ValkeyCache, ValkeyRateLimiter
from watchly_adapters.webhooks import WebhookPublisher
from watchly_core.catalogue import Catalogue
from watchly_core.clocks import utc_now
from watchly_core.gallery import Gallery
from watchly_core.ports import (
    ApiKeyRepository,
    Backlogs,
    Cache,
    Clock,
    EventLog,
    ImageFiles,
    ImageInspector,
    ImageLedger,
    ImageNotifications,
    ImageStore,
    ImageUploads,
    Interruptible,
    JoinedTransactions,
    MovieQueries,
    MovieRepository,
    PasswordHasher,
    PeopleQueries,
    Publisher,
    RateLimiter,
    Receipts,
    RelayLedger,
    SessionRepository,
    SigningKeyRepository,
    ThrottleLedger,
    TokenReader,
    Tokens,
    Transaction,
    Transactions,
    UserRepository,
)
from watchly_core.signing_keys import SigningKeys

MOVIE_QUERIES: Final[Sequence[type[MovieQueries]]] = (
    MemoryMovieQueries,
    PostgresMovieQueries,
    JoinedQueries,
    ReplicaQueries,
    CachedQueries,
)
TRANSACTIONS: Final[Sequence[type[Transactions]]] = (
    SerialTransactions[MemoryTransaction],
    PostgresTransactions,
)
JOINED: Final[Sequence[type[JoinedTransactions]]] = (PostgresJoinedTransactions,)
TRANSACTION: Final[Sequence[type[Transaction]]] = (MemoryTransaction, PostgresTransaction)
MOVIE_REPOSITORIES: Final[Sequence[type[MovieRepository]]] = (MemoryMovies, PostgresMovies)
EVENT_LOGS: Final[Sequence[type[EventLog]]] = (MemoryEvents, PostgresEvents)
IMAGE_LEDGERS: Final[Sequence[type[ImageLedger]]] = (MemoryImageLedger, PostgresImageLedger)
RECEIPTS: Final[Sequence[type[Receipts]]] = (MemoryReceipts, PostgresReceipts)
RELAY_LEDGERS: Final[Sequence[type[RelayLedger]]] = (MemoryRelayLedger, PostgresRelayLedger)
BACKLOGS: Final[Sequence[type[Backlogs]]] = (MemoryBacklogs, PostgresBacklogs)
PEOPLE_QUERIES: Final[Sequence[type[PeopleQueries]]] = (MemoryPeopleQueries, PostgresPeopleQueries)
USER_REPOSITORIES: Final[Sequence[type[UserRepository]]] = (MemoryUsers, PostgresUsers)
SESSION_REPOSITORIES: Final[Sequence[type[SessionRepository]]] = (MemorySessions, PostgresSessions)
API_KEY_REPOSITORIES: Final[Sequence[type[ApiKeyRepository]]] = (MemoryApiKeys, PostgresApiKeys)
SIGNING_KEY_REPOSITORIES: Final[Sequence[type[SigningKeyRepository]]] = (
    MemorySigningKeys,
    PostgresSigningKeys,
)
THROTTLE_LEDGERS: Final[Sequence[type[ThrottleLedger]]] = (MemoryThrottles, PostgresThrottles)
PASSWORD_HASHERS: Final[Sequence[type[PasswordHasher]]] = (Argon2Hasher,)
TOKENS: Final[Sequence[type[Tokens]]] = (SealedTokens,)
TOKEN_READERS: Final[Sequence[type[TokenReader]]] = (SigningKeys, PublishedKeys)
PUBLISHERS: Final[Sequence[type[Publisher]]] = (NatsPublisher, WebhookPublisher)
IMAGE_STORES: Final[Sequence[type[ImageStore]]] = (MemoryImages, FilesystemImages, CloudinaryImages)
IMAGE_FILES: Final[Sequence[type[ImageFiles]]] = (MemoryImages, FilesystemImages)
IMAGE_UPLOADS: Final[Sequence[type[ImageUploads]]] = (MemoryImages, FilesystemImages)
IMAGE_NOTIFICATIONS: Final[Sequence[type[ImageNotifications]]] = (CloudinaryImages,)
INTERRUPTIBLES: Final[Sequence[type[Interruptible]]] = (CloudinaryImages, ValkeyCache, ValkeyRateLimiter)
CACHES: Final[Sequence[type[Cache]]] = (MemoryCache, ValkeyCache)
RATE_LIMITERS: Final[Sequence[type[RateLimiter]]] = (MemoryRateLimiter, ValkeyRateLimiter)
CACHE_WATCHES: Final[Sequence[type[CacheWatch]]] = (Unwatched, CacheMetrics)
IMAGE_INSPECTORS: Final[Sequence[type[ImageInspector]]] = (HeaderInspector, PillowInspector)
CLOCKS: Final[Sequence[Clock]] = (utc_now,)

STORES: Final[Sequence[type[Store]]] = (MemoryDatabase, PostgresDatabase)
BACKLOGGED_STORES: Final[Sequence[type[BackloggedStore]]] = (MemoryDatabase, PostgresDatabase)
POSITIONED_STORES: Final[Sequence[type[PositionedStore]]] = (MemoryDatabase, PostgresDatabase)
STORE_FACTORIES: Final[Sequence[StoreFactory]] = (MemoryDatabase,)
SERVED_STORES: Final[Sequence[type[ServedStore]]] = (MemoryImages, FilesystemImages)
RECEIVING_STORES: Final[Sequence[type[ReceivingStore]]] = (MemoryImages, FilesystemImages)

# That the checkers do tell: strict mode refuses an `ignore` where there is no error.
NO_QUERIES: type[MovieQueries] = MemoryMovies  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
NO_FILES: type[ImageFiles] = CloudinaryImages  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
NO_UPLOADS: type[ImageUploads] = CloudinaryImages  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]


def on_memory(database: MemoryDatabase, images: MemoryImages) -> tuple[Catalogue, Gallery]:
    """As a tester plugs them together."""
    return (
        Catalogue(database.queries, database.transactions, images=images),
        Gallery(database.queries, database.transactions, images, HeaderInspector()),
    )


def on_postgres(database: PostgresDatabase, images: CloudinaryImages) -> tuple[Catalogue, Gallery]:
    """As a service author plugs them together."""
    return (
        Catalogue(database.queries, database.transactions, images=images),
        Gallery(database.queries, database.transactions, images, PillowInspector()),
    )


def begin(transactions: PostgresTransactions) -> AbstractAsyncContextManager[Transaction]:
    """A call of the write side gives a context."""
    call: Callable[[], AbstractAsyncContextManager[Transaction]] = transactions
    return call()
