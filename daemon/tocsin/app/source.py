"""Where the configuration comes from, and whether it has changed there."""

from pathlib import Path

from tocsin.config import from_environment, load_file
from tocsin.config.inputs import Inputs
from tocsin.config.load import Check, config_path_from_environment
from tocsin.config.model import Config
from tocsin.deliver.connect import check_channel_url


class Source:
    """A file, or the environment where there is none."""

    def __init__(self, path: Path | None, check_url: Check = check_channel_url) -> None:
        self.path = path or config_path_from_environment()
        self._check_url = check_url
        self._inputs = Inputs()

    def load(self) -> Config:
        """Read it now. Raises ``BadConfig``."""
        if self.path is None:
            return from_environment(self._check_url)
        self._inputs = Inputs()
        return load_file(self.path, self._check_url, self._inputs)

    def changed(self) -> bool:
        """Whether the file, a template or the files that a glob of templates matches differ from the last ``load``,
        well or not; false for the environment."""
        return self._inputs.changed()
