"""A small Cloudinary on a loopback port, for tests and development.

It checks what the real one checks (signatures, timestamps, the order of chunks, limits, formats) and answers
with the same bodies, as far as an image store needs them: upload, destroy, the Admin API's look-up, delivery
of originals and of what is made of them, notifications. Assets live in a temporary directory and go with it.
What can go wrong can be made to::

    with CloudinaryEmulator() as emulator:
        store = CloudinaryImages.from_url(emulator.url)
        emulator.faults.script(Fault.RATE_LIMITED, Fault.LOST.on("upload"))

It runs on msgspec and ``multipart``; Pillow makes the smaller images if it is installed, otherwise the
originals stand for them.
"""

from watchly_adapters.testing.cloudinary.assets import Asset
from watchly_adapters.testing.cloudinary.emulator import CloudinaryEmulator, run_cloudinary
from watchly_adapters.testing.cloudinary.faults import Action, Fault, Faults, Scripted
from watchly_adapters.testing.cloudinary.messages import Answer, Reply, Request
from watchly_adapters.testing.cloudinary.signatures import Algorithm

__all__ = [
    "Action",
    "Algorithm",
    "Answer",
    "Asset",
    "CloudinaryEmulator",
    "Fault",
    "Faults",
    "Reply",
    "Request",
    "Scripted",
    "run_cloudinary",
]
