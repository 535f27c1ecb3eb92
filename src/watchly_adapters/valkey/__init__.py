"""What processes share in a Valkey, or in a Redis: a cache, and counts of requests."""

from watchly_adapters.valkey.cache import ValkeyCache
from watchly_adapters.valkey.connection import TIMEOUT
from watchly_adapters.valkey.rates import ValkeyRateLimiter

__all__ = ["TIMEOUT", "ValkeyCache", "ValkeyRateLimiter"]
