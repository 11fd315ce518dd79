"""An emulated DSS that speaks the same wire; for demo, development and tests. Shares no code with the client."""

from tocsin.sim.archive import NotAnArchive as NotAnArchive
from tocsin.sim.archive import SqliteArchive as SqliteArchive
from tocsin.sim.behaviour import BadWorld as BadWorld
from tocsin.sim.clock import WorldClock as WorldClock
from tocsin.sim.executors import Limits as Limits
from tocsin.sim.http import ApiKey as ApiKey
from tocsin.sim.server import DEFAULT_KEY as DEFAULT_KEY
from tocsin.sim.server import Sim as Sim
from tocsin.sim.world import World as World
from tocsin.sim.world import lively_world as lively_world
