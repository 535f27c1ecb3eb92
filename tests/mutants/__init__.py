"""Faults made by hand, as patches, and that the shipped contract suites catch every one of them.

``ADAPTER/PORT/NN-what-it-breaks.patch`` is a fault of the sources, as somebody might make it. Each is put
into a copy, and the suites that `suites` names have to fail. One that survives says that a suite is too weak,
unless nobody could ever tell the difference: then it is no fault.

    python -m tests.mutants --only postgres/movies

A fault that does not fit any more is made anew: change the sources as it did, and write
``git diff -U1 src > tests/mutants/ADAPTER/PORT/NN-what-it-breaks.patch``.
"""
