"""Contract suites: what each port of `watchly_core` promises, as tests for any adapter.

To check an adapter, subclass the suite of its port in a test module and supply its one fixture::

    class TestMyStore(MovieStoreContract):
        @pytest.fixture
        async def store(self):
            async with MyDatabase() as database:
                yield database

The suites run on pytest and anyio's plugin for it: ``pip install 'watchly[testing]'``.
"""
