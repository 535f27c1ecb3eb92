"""The roles that adapters play: protocols, satisfied by shape and proven by `watchly_adapters.testing`.

Every method may raise `errors.Unavailable` when what stands behind it does not answer; only the other
errors are named below. All times are aware datetimes in UTC with microseconds.
"""

from watchly_core.clocks import Clock, Ticks
from watchly_core.ports.backlogs import Backlogs
from watchly_core.ports.caches import Cache
from watchly_core.ports.images import (
    ImageFile,
    ImageFiles,
    ImageInspector,
    ImageLedger,
    ImageNotifications,
    ImageStore,
    ImageUploads,
    Render,
)
from watchly_core.ports.movies import (
    ChangeSignal,
    EventLog,
    MovieQueries,
    MovieRepository,
    Receipts,
)
from watchly_core.ports.parts import (
    Closable,
    Interruptible,
)
from watchly_core.ports.people import (
    ApiKeyRepository,
    PasswordHasher,
    PeopleQueries,
    SessionRepository,
    SigningKeyRepository,
    ThrottleLedger,
    TokenReader,
    Tokens,
    UserRepository,
)
from watchly_core.ports.rates import RateLimiter
from watchly_core.ports.relays import (
    Publisher,
    RelayLedger,
)
from watchly_core.ports.transactions import (
    JoinedTransactions,
    Transaction,
    Transactions,
    own,
)

__all__ = [
    "ApiKeyRepository",
    "Backlogs",
    "Cache",
    "ChangeSignal",
    "Clock",
    "Closable",
    "EventLog",
    "ImageFile",
    "ImageFiles",
    "ImageInspector",
    "ImageLedger",
    "ImageNotifications",
    "ImageStore",
    "ImageUploads",
    "Interruptible",
    "JoinedTransactions",
    "MovieQueries",
    "MovieRepository",
    "PasswordHasher",
    "PeopleQueries",
    "Publisher",
    "RateLimiter",
    "Receipts",
    "RelayLedger",
    "Render",
    "SessionRepository",
    "SigningKeyRepository",
    "ThrottleLedger",
    "Ticks",
    "TokenReader",
    "Tokens",
    "Transaction",
    "Transactions",
    "UserRepository",
    "own",
]
