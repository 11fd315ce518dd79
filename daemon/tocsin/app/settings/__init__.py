"""The configuration file and the environment, and how both become one frozen ``Config``."""

from tocsin.app.settings.load import from_environment, load_file
from tocsin.app.settings.problems import BadConfig, Problem

__all__ = ["BadConfig", "Problem", "from_environment", "load_file"]
