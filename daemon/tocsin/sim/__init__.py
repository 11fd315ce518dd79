"""An emulated DSS that speaks the same wire; for demo, development and tests. Shares no code with the client."""

from tocsin.sim.archive import NotAnArchive, SqliteArchive
from tocsin.sim.behaviour import BadWorld, Behaviour
from tocsin.sim.clock import WorldClock
from tocsin.sim.executors import Limits
from tocsin.sim.http import ApiKey
from tocsin.sim.server import DEFAULT_KEY, Sim
from tocsin.sim.world import World, lively_world

__all__ = [
    "DEFAULT_KEY",
    "ApiKey",
    "BadWorld",
    "Behaviour",
    "Limits",
    "NotAnArchive",
    "Sim",
    "SqliteArchive",
    "World",
    "WorldClock",
    "lively_world",
]
