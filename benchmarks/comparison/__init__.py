"""Watchly and what people would pick instead: the same work on the same movies, side by side.

- `database` has the movies, and copies of them for each;
- `servers` knows how each is installed, started, watched and stopped;
- `loads` the requests that each is sent, and `load.lua` sends them by wrk;
- `library` measures the catalogue without HTTP;
- `report` makes a table and a plot of what was found.
"""
