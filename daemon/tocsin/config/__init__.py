"""The configuration file and the environment, and how both become one frozen ``Config``."""

from tocsin.config.load import from_environment, load_file
from tocsin.config.problems import BadConfig, Problem

__all__ = ["BadConfig", "Problem", "from_environment", "load_file"]
