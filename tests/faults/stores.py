"""The stores of images that are made to fail."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from watchly_adapters.filesystem.folders import Leftovers
from watchly_adapters.testing.cloudinary import CloudinaryEmulator, Fault
from watchly_adapters.testing.cloudinary.faults import ACTIONS

#: What a service asks for; clients, who load images, wait for nothing.
_ASKED: Final = ACTIONS - {"delivery"}
#: All that ends by itself, within a while that a run can spare.
_KINDS: Final = frozenset(Fault) - {Fault.DOWN, Fault.TIMEOUT}


class Images(ABC):
    """A store of images that can be made to fail.

    Attributes:
        environment: what names it to a service.
    """

    environment: Mapping[str, str]

    @abstractmethod
    def fail(self, down: bool) -> None:
        """Be down, or work again."""

    @abstractmethod
    def deliver(self, link: str) -> str:
        """Where what an image's URL names is loaded from."""

    @abstractmethod
    def assets(self) -> Collection[str]:
        """The keys under which anything is kept."""

    @abstractmethod
    def uploads(self) -> Collection[str]:
        """The keys under which something lies that clients sent, apart from the images."""

    @abstractmethod
    def tidy(self) -> None:
        """Do what a store does by itself when no upload can be completed any more."""

    @abstractmethod
    def faults(self) -> Mapping[str, int]:
        """How often it has failed by itself."""

    @abstractmethod
    def trouble(self, rate: float, seed: int, *, long: bool) -> None:
        """Begin to fail by chance, as far as it can by itself; `long` if there is time for long waits."""

    @abstractmethod
    def calm(self) -> None:
        """Fail no more."""


class Cloud(Images):
    """The emulator of Cloudinary, which lies, loses and breaks off as well."""

    def __init__(self, emulator: CloudinaryEmulator) -> None:
        self._emulator = emulator
        emulator.faults.pause = 0.001
        self.environment = {"CLOUDINARY_URL": emulator.url}

    def trouble(self, rate: float, seed: int, *, long: bool) -> None:
        if long:
            self._emulator.faults.script(*(Fault.TIMEOUT.on(action) for action in sorted(_ASKED)))
        self._emulator.faults.at_random(rate, seed, _KINDS, _ASKED)

    def fail(self, down: bool) -> None:
        if down:
            self._emulator.faults.down()
        else:
            self._emulator.faults.up()

    def calm(self) -> None:
        self._emulator.faults.clear()

    def deliver(self, link: str) -> str:
        return self._emulator.delivery_url(link)

    def assets(self) -> Collection[str]:
        return [public_id.rpartition("/")[2] for public_id in self._emulator.assets]

    def uploads(self) -> Collection[str]:
        return ()  # what it has been sent is an image at once

    def tidy(self) -> None:
        pass

    def faults(self) -> Mapping[str, int]:
        return {f"the store {fault.name}": times for fault, times in self._emulator.faults.made.items()}


class Disk(Images):
    """A directory, whose disk comes and goes."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._disk = folder / "disk"
        (folder / "sound").mkdir()
        (folder / "broken").touch()
        self.fail(down=False)
        self._images = folder / "sound" / "images"
        self.environment = {"IMAGE_STORE_URL": f"file://{self._disk}/images"}

    def fail(self, down: bool) -> None:
        # Below a file nothing is found, and nothing is missing either.
        link = self._folder / "next"
        link.symlink_to(self._folder / ("broken" if down else "sound"))
        link.replace(self._disk)

    def trouble(self, rate: float, seed: int, *, long: bool) -> None:
        pass  # it does what it can, or nothing

    def calm(self) -> None:
        self.fail(down=False)

    def deliver(self, link: str) -> str:
        return urljoin(self._url, link)

    def assets(self) -> Collection[str]:
        files = [path for path in (self._folder / "sound").rglob("*") if path.is_file()]
        return {
            path.name.partition(".")[0] for path in files if path.parent.name not in {".incoming", ".uploads"}
        }

    def uploads(self) -> Collection[str]:
        return {path.name for path in self._images.glob(".uploads/*")}

    def tidy(self) -> None:
        leftovers = Leftovers(self._images / ".uploads", stale_seconds=-1)
        for _ in self.uploads():
            leftovers.clear()

    def faults(self) -> Mapping[str, int]:
        return {}
