"""Watchly."""
