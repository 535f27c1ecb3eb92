"""Adapters that plug into the ports of `watchly_core`: import the module of the one that you use."""
