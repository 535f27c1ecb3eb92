"""Contract suites: what each port of `watchly_core` promises, as tests for any adapter.

To check an adapter, subclass the suite of its port in a test module and supply its one fixture::

    class TestMyStore(MovieStoreContract):
        @pytest.fixture
        async def store(self):
            async with MyDatabase() as database:
                yield database

A store of movies has twelve: `movie_stores` (rows), `movie_lists` (filters, order, pages, counts),
`movie_searches`, `transactions`, `contention`, `positions`, `event_logs`, `image_ledgers`, `receipts`,
`relay_ledgers`, `backlogs`, and `histories`, which drives it beside the fake. Its people have five: `users`,
`sessions`, `api_keys`, `signing_keys` and `throttles`. `image_stores`, `image_files`, `image_uploads` and
`inspectors` are those of images, `caches` is that of a cache, `rate_limiters` that of what counts requests,
`publishers` that of what tells others of changes, `passwords` that of what hashes them, `tokens` and
`token_readers` those of what signs tokens and reads them.

The suites run on pytest and anyio's plugin for it: ``pip install 'watchly[testing]'``.
"""
