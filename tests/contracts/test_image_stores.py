"""The suites of image stores: on the fake, on a directory, and on Cloudinary's SDK before the emulator."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from watchly_adapters.cloudinary import CloudinaryImages
from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.memory import MemoryImages
from watchly_adapters.testing.cloudinary import CloudinaryEmulator
from watchly_adapters.testing.image_files import ServedStoreContract
from watchly_adapters.testing.image_stores import ImageStoreContract, ServedStore
from watchly_adapters.testing.image_uploads import ImageUploadsContract


@pytest.fixture(scope="module")
def emulator() -> Iterator[CloudinaryEmulator]:
    with CloudinaryEmulator() as emulator:
        yield emulator


class TestImagesInMemory(ServedStoreContract):
    @pytest.fixture
    def store(self) -> MemoryImages:
        return MemoryImages()


class TestImagesInADirectory(ServedStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FilesystemImages:
        self.folder = tmp_path / "images"
        return FilesystemImages(self.folder)

    def another(self, store: ServedStore) -> FilesystemImages:  # noqa: ARG002 - see the suite
        return FilesystemImages(self.folder)


class TestImagesInADirectoryWithAnAddress(ServedStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FilesystemImages:
        return FilesystemImages(tmp_path, base_url="https://films.example/")


class TestUploadsToMemory(ImageUploadsContract):
    @pytest.fixture
    def store(self) -> MemoryImages:
        return MemoryImages()


class TestUploadsToADirectory(ImageUploadsContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FilesystemImages:
        return FilesystemImages(tmp_path / "images")


class TestUploadsToADirectoryWithAnAddress(ImageUploadsContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FilesystemImages:
        return FilesystemImages(tmp_path, base_url="https://films.example/", secret=b"known to all processes")


class TestImagesInCloudinary(ImageStoreContract[CloudinaryImages]):
    @pytest.fixture
    def store(self, emulator: CloudinaryEmulator) -> CloudinaryImages:
        self.emulator = emulator
        return CloudinaryImages.from_url(emulator.url)

    def secrets(self) -> Sequence[str]:
        return (self.emulator.api_secret,)

    async def content(self, store: CloudinaryImages, key: str) -> bytes | None:
        return await asyncio.to_thread(_loaded, self.emulator.delivery_url(store.url(key)))


class TestImagesInACloudinaryWithALimit(TestImagesInCloudinary):
    @pytest.fixture
    def store(self, emulator: CloudinaryEmulator) -> CloudinaryImages:
        self.emulator = emulator
        return CloudinaryImages.from_url(emulator.url, max_bytes=10_000_000)


def _loaded(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:  # noqa: S310 - the emulator's own address
            content: bytes = reply.read()
            return content
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
            raise
