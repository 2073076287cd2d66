"""One product of the models folder: its known versions, the one that serves, and those that may take over."""

import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.folder import Found
from service.version import State, Version


@dataclass(slots=True, eq=False)
class Product:
    """The known versions, at least one, in the order in which they were found."""

    name: str
    versions: list[Version] = field(default_factory=list)
    serving: Version | None = None
    """The one that answers requests without a version number: READY, with a lane."""

    @property
    def newest_first(self) -> list[Version]:
        return sorted(self.versions, key=lambda version: -version.number)

    @property
    def state(self) -> State:
        """READY if a version serves, else the newest version's state."""
        return "READY" if self.serving else self.newest_first[0].state

    def knows(self, number: int, found: Found) -> bool:
        """Whether a version, serving or FAILED, has been seen with these very files."""
        return any((version.number, version.found) == (number, found) for version in self.versions)

    def note_absent(self, on_disk: Container[int]) -> list[Version]:
        """Notes which are absent; returns those that were absent in the previous scan, too."""
        removed = [version for version in self.versions if version.absent and version.number not in on_disk]
        for version in self.versions:
            version.absent = version.number not in on_disk
        return removed

    def drop_outdated_failures(self, on_disk: Mapping[int, Found], removed: Container[Version]) -> None:
        """Drops FAILED versions that were removed, or have changed since they failed."""
        for version in list(self.versions):
            changed = on_disk.get(version.number, version.found) != version.found
            if version.state == "FAILED" and (changed or version in removed):
                self.versions.remove(version)

    def unload_replaced(self) -> None:
        """Releases replaced versions that are still kept: they are DRAINING."""
        for version in self.versions:
            if version.state == "DRAINING":
                version.unloading.set()

    def candidates(
        self, folder: Path, on_disk: Mapping[int, Found], removed: Container[Version]
    ) -> Iterator[Version]:
        """What may take over from the serving version, the newest first. New versions become known here."""
        serving = self.serving
        failed = {version.number: version for version in self.versions if version.state == "FAILED"}
        for number, found in sorted(on_disk.items(), reverse=True):
            if serving and number < serving.number and serving not in removed:
                return
            if serving and (serving.number, serving.found) == (number, found):
                return
            if number not in failed:
                version = Version(self.name, number, folder / self.name / str(number), found)
                self.versions.append(version)
                yield version
            elif time.monotonic() >= failed[number].retry_at:  # otherwise it is unchanged since it failed
                yield failed[number]
