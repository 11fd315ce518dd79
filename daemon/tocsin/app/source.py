"""Where the configuration comes from, and whether it has changed there.

In Kubernetes a mounted directory is swapped by a symbolic link: watching the file itself never sees that, looking at
what its path resolves to does.
"""

import os
from pathlib import Path

from tocsin.app.settings import from_environment, load_file
from tocsin.app.settings.load import Check, config_path_from_environment
from tocsin.deliver.connect import check_channel_url
from tocsin.model.config import Config

Signature = tuple[tuple[str, str, int, int], ...]


class Source:
    """A file, or the environment where there is none."""

    def __init__(self, path: Path | None, check_url: Check = check_channel_url) -> None:
        self.path = path or config_path_from_environment()
        self._check_url = check_url
        self._templates: tuple[Path, ...] = ()

    def load(self) -> Config:
        """Read it now. Raises ``BadConfig``."""
        if self.path is None:
            return from_environment(self._check_url)
        config = load_file(self.path, self._check_url)
        self._templates = tuple(map(Path, config.template_files))
        return config

    def signature(self) -> Signature:
        """Something that differs once the file, or a template, has changed; empty for the environment."""
        places = () if self.path is None else (self.path, *self._templates)
        return tuple(found for place in places if (found := _signature(place)) is not None)


def _signature(place: Path) -> tuple[str, str, int, int] | None:
    try:
        status = os.stat(place)
    except OSError:
        return None
    return (str(place), str(place.resolve()), status.st_mtime_ns, status.st_size)
