"""What a database has that keeps movies and not all of the rest: its author writes the stores that it has."""

from watchly_adapters.partial.database import PartialDatabase
from watchly_adapters.partial.queries import ListedQueries
from watchly_adapters.partial.transactions import PartialTransaction, SerialTransactions, Turn

__all__ = ["ListedQueries", "PartialDatabase", "PartialTransaction", "SerialTransactions", "Turn"]
