"""The parts of the application that handlers ask for by name; `app.create_app` provides them.

They are protocols and classes of our own, which Litestar need not check at every request.
"""

import asyncio
from typing import TypeAlias

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from watchly_adapters import settings
from watchly_core import access, accounts, api_keys, catalogue, gallery, sessions, signing_keys, threads
from watchly_http import feed

Catalogue: TypeAlias = NamedDependency[SkipValidation[catalogue.Catalogue]]
#: For reads that no write depends on: it may be a little late. `positions.seen_by` makes it what they need.
Reading: TypeAlias = NamedDependency[SkipValidation[catalogue.Catalogue]]
Gallery: TypeAlias = NamedDependency[SkipValidation[gallery.Gallery]]
#: None where the store keeps no images.
AnyGallery: TypeAlias = NamedDependency[SkipValidation[gallery.Gallery | None]]
Access: TypeAlias = NamedDependency[SkipValidation[access.Access]]
Accounts: TypeAlias = NamedDependency[SkipValidation[accounts.Accounts]]
Sessions: TypeAlias = NamedDependency[SkipValidation[sessions.Sessions]]
ApiKeys: TypeAlias = NamedDependency[SkipValidation[api_keys.ApiKeys]]
SigningKeys: TypeAlias = NamedDependency[SkipValidation[signing_keys.SigningKeys]]
Feed: TypeAlias = NamedDependency[SkipValidation[feed.Feed]]
Settings: TypeAlias = NamedDependency[SkipValidation[settings.Settings]]
#: Threads that read the rows of imports.
RowThreads: TypeAlias = NamedDependency[SkipValidation[threads.Threads]]
#: As many as there are of them: imports beyond these wait before they begin a transaction.
ImportTurns: TypeAlias = NamedDependency[SkipValidation[asyncio.Semaphore]]
