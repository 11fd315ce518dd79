"""``make chaos``: the daemon as a real process, a node and a webhook that fail at random, and kill -9 at any moment.

A game is a minute from a seed: in each of its storms runs come and go, faults are switched on and off, clocks jump,
the node restarts, and the daemon is killed at random moments and at fail points between SQL statements. In the calm
after each storm the server's ledger, the event log and the webhook's posts must agree: nothing lost, nothing twice,
nothing invented. The same seed draws the same game; only the machine's timing differs.

    python -m tests.e2e.chaos --seed 7 --games 1 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from tests.conftest import empty_postgres
from tests.fakedss import DaemonProcess, Differences, FakeDSS, Life, WebhookSink, between, config_for, faults, node
from tests.fakedss.ledger import fact_of

STORM_SECONDS = 22.0
CALM_SECONDS = 150.0  # a bound, not a measure
HOUR = timedelta(hours=1)
TOCSIN = ("tocsin",)

FAULTS: list[tuple[faults.Fault, str]] = [
    *((faults.status(code), "*") for code in (500, 503)),
    *((faults.too_many(after), "*") for after in (None, "1", "soon")),
    *((faults.html(code), "*") for code in (200, 404, 502)),
    (faults.redirect("/login/"), "*"),
    (faults.unauthorized(), "*"),
    *((faults.forbidden(), operation) for operation in ("last_runs", "scenarios", "futures", "projects")),
    (faults.not_found(), "last_runs"),
    *((fault, "*") for fault in (faults.reset(), faults.reset_after_headers(), faults.truncated())),
    *((fault, "*") for fault in (faults.cut_json(), faults.drip(0.01, 300), faults.never(), faults.slow(0.7))),
    *((fault, "*") for fault in (faults.reply(None), faults.wrong_type(), faults.strangers(), faults.shuffled())),
    *((faults.reply([]), operation) for operation in ("futures", "last_runs", "scenarios", "projects")),
    (faults.huge(3), "last_runs"),
    (faults.nulled("runId", "start"), "last_runs"),
    (faults.nulled("end", "trigger"), "last_runs"),
    (faults.missing("scenario", "end", "result"), "last_runs"),
    (faults.missing("nextRun", "tags", "active", "running"), "scenarios"),
]
SINK_FAULTS: list[faults.Fault | None] = [
    *(None, None, None, faults.status(500), faults.too_many("1"), faults.reset(), faults.never(), faults.slow(0.3))
]


class Disagreement(AssertionError):
    """The ledger, the event log and the webhook do not agree."""


@dataclass
class Game:
    """One seed's worth of trouble. ``tally`` counts what was done; ``deaths`` says where the fail points struck."""

    seed: int
    folder: Path
    dss: FakeDSS
    sink: WebhookSink
    postgres: str | None = None
    tally: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.dss.world.populate(4, 3)
        store = {"store": {"url": empty_postgres(self.postgres)}} if self.postgres else {}
        self.config = config_for(self.folder, [self._node()], self.sink, receivers=[self._receiver()], **store)
        self.daemon = DaemonProcess(self.config)
        self._jumped = False
        self._began = time.monotonic()

    def _node(self) -> dict[str, object]:
        # A clock that jumps an hour must not make what happened too old to be told one by one.
        backfill = {"max_age": "7d", "notify_max_age": "1d"}
        return node("prod", self.dss, max_requests_per_second=60, backfill=backfill)

    def _receiver(self) -> dict[str, object]:
        return {"name": "hook", "channels": [{"name": "hook", "webhook": self.sink.url, "timeout": "2s"}]}

    async def play(self, seconds: float) -> None:
        """Storms and calms for about so many seconds. Raises ``Disagreement``."""
        try:
            for most in (60, 200):  # while the tables are made, and soon after
                await self._die_at(self.chance.randrange(1, most), within=60)
            self.daemon.module = TOCSIN
            await self.daemon.start()
            await self.daemon.ready()
            await self.daemon.watching(12)
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                await self._storm(min(STORM_SECONDS, max(5.0, ends - time.monotonic())))
                await self._calm()
        finally:
            await self.daemon.kill9()

    # --- the storm ---------------------------------------------------------------------------------------------------

    async def _storm(self, seconds: float) -> None:
        seeds = [self.chance.randrange(1 << 30) for _ in range(3)]  # each its own: their timing is the machine's
        life = Life(self.dss.world, self.chance.uniform(4, 25), between(0.02, 3), seed=seeds[0])
        works = (life.live(), self._spoil(random.Random(seeds[1])), self._kill(random.Random(seeds[2])))
        tasks = [asyncio.create_task(work) for work in works]
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        life.finish()
        self.tally["storms"] += 1

    async def _spoil(self, chance: random.Random) -> None:
        """Something goes wrong every second or so, for a while; now and then everything is well again."""
        while True:
            deed = chance.choices([self._fault, self._event, self._sink, self._heal], [8, 2, 2, 3])[0]
            self.tally[deed(chance)] += 1
            await asyncio.sleep(chance.uniform(0.1, 2))

    def _fault(self, chance: random.Random) -> str:
        fault, operation = chance.choice(FAULTS)
        project, often = chance.choice(["*", "*", "P001"]), chance.choice([0.1, 0.4, 1.0])
        seed, until = chance.randrange(1 << 30), chance.uniform(0.5, 6)
        self.dss.fail(fault, operation, project, probability=often, seed=seed, until=until)
        return "faults"

    def _event(self, chance: random.Random) -> str:
        dss = self.dss
        happening = chance.choice(["restart", "vanish", "forget", "hide", "revoke", "away", "jump", "clear"])
        match happening:
            case "restart":
                dss.world.restart()
            case "vanish":
                dss.world.restart("vanished")
            case "forget":
                dss.world.forget_running()
            case "hide":
                dss.hide_project("P002", chance.choice(["both", "absent", "forbidden"]))
            case "revoke":
                dss.revoke_key(chance.choice([dss.api_key, dss.admin_key]))
            case "away":
                dss.fail(faults.reset(), until=chance.uniform(1, 6))
            case "jump" if not self._jumped:
                # Back and forth in a downtime, or to before the watch, is what nobody who was not there can tell.
                self._jumped = True
                back = dss.world.skew_ms >= HOUR / timedelta(milliseconds=1)
                dss.jump((-1 if back else 1) * chance.choice([HOUR, timedelta(seconds=chance.uniform(0, 30))]))
            case "jump":
                return "jumps too many"
            case "clear":
                dss.world.clear_history(keep=60)  # nobody can tell what was cleared before it could be seen
        return happening

    def _sink(self, chance: random.Random) -> str:
        self.sink.default = chance.choice(SINK_FAULTS)
        return "receiver troubles"

    def _heal(self, _: random.Random) -> str:
        dss = self.dss
        dss.rules.clear()
        dss.show_project("P002")
        dss.restore_key(dss.api_key)
        dss.restore_key(dss.admin_key)
        self.sink.default = None
        return "healings"

    async def _kill(self, chance: random.Random) -> None:
        """Lives that end by a kill from outside, or at a fail point, or from outside if that is never reached."""
        while True:
            await asyncio.sleep(chance.uniform(0.2, 4))
            await self.daemon.kill9()
            self.tally["kills"] += 1
            while chance.random() < 0.85:
                await self._die_at(round(math.exp(chance.uniform(math.log(30), math.log(700)))))
            self.daemon.module = TOCSIN
            await self.daemon.start()

    async def _die_at(self, fatal: int, within: float = 15) -> None:
        """A life that ends at a fail point, or from outside if that is not reached."""
        self.daemon.module = ("tests.e2e.failpoint", str(fatal))
        await self.daemon.start()
        try:
            await self.daemon.wait(within)
        except TimeoutError:
            await self.daemon.kill9()
            self.tally["kills"] += 1
            return
        last = next((line for line in reversed(self.daemon.stderr) if line.startswith("failpoint ")), None)
        if last is None:
            raise Disagreement("the daemon ended by itself:\n" + "\n".join(self.daemon.stderr[-20:]))
        self.tally["fail points"] += 1
        self.deaths[" ".join(last.split()[2:6])] += 1

    # --- the calm ----------------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        """All is well again: soon the three must agree. The daemon lives on, or, as often as not, is killed first."""
        self._jumped = False
        self.tally[self._heal(self.chance)] += 1
        if self.chance.random() < 0.5 or self.daemon.module != TOCSIN:
            await self.daemon.kill9()
        if not self.daemon.alive:
            self.daemon.module = TOCSIN
            await self.daemon.start()
        await self.daemon.ready()
        began = time.monotonic()
        agreed = 0
        while agreed < 2:  # also after another look at everything
            wrong = await self._wrong()
            agreed = 0 if wrong else agreed + 1
            if wrong and time.monotonic() > began + CALM_SECONDS:
                raise Disagreement(wrong)
            await asyncio.sleep(1 if wrong else 2.5)
        self.tally["longest calm, s"] = max(self.tally["longest calm, s"], round(time.monotonic() - began))

    async def _wrong(self) -> str:
        events = await self.daemon.events()
        found = self.dss.ledger.compare(events)
        known = {event["id"] for event in events if fact_of(event)}
        # A late start whose run is over is told by the end.
        owed = {e["id"] for e in events if fact_of(e) and not (e["data"]["late"] and e["type"].endswith("started"))}
        ids = defaultdict(set)
        for post in self.sink.posts:
            if fact_of(post.json):
                ids[str(post.json["id"])].add(post.headers["webhook-id"])
        troubles = {
            "events": found if found != Differences() else None,
            "never posted": owed - set(ids),
            "posted under several ids": [event for event, several in ids.items() if len(several) > 1],
            "posted but not in the log": set(ids) - known,
            "writes to DSS": self.dss.writes,
            "tracebacks": [line for line in self.daemon.stderr if "Traceback" in line or "never retrieved" in line],
        }
        return "\n".join(f"{what}: {which}" for what, which in troubles.items() if which)

    def __str__(self) -> str:
        done = ", ".join(f"{count} {what}" for what, count in sorted(self.tally.items()))
        return (
            f"seed {self.seed}: {len(self.dss.ledger.runs)} runs, {len(self.sink.posts)} posts, {done}; "
            f"{time.monotonic() - self._began:.0f} s"
        )


async def play(seed: int, seconds: float, folder: Path, postgres: str | None = None) -> Game:
    """One game, in SQLite or in this PostgreSQL, which is emptied. Raises ``Disagreement`` that names the seed."""
    async with FakeDSS() as dss, WebhookSink() as sink:
        game = Game(seed, folder, dss, sink, postgres)
        try:
            await game.play(seconds)
        except Disagreement as wrong:
            log = folder / f"chaos-{seed}.log"
            log.write_text("\n".join(game.daemon.stdout + game.daemon.stderr))
            again = f"python -m tests.e2e.chaos --seed {seed} --games 1 --seconds {seconds:g}"
            raise Disagreement(f"{game}\n{wrong}\nlog: {log}\nplay it again: {again}") from None
        return game


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 20), help="of the first game")
    parser.add_argument("--games", type=int, default=0, help="how many, each with the next seed; 0: as --minutes says")
    parser.add_argument("--minutes", type=float, default=5, help="begin no new game after this")
    parser.add_argument("--seconds", type=float, default=60, help="of trouble in each game")
    parser.add_argument("--postgres", help="address of a database that may be emptied; without it, SQLite")
    options = parser.parse_args()
    begun, lost, deaths, number = time.monotonic(), 0, Counter[str](), 0
    while number < options.games if options.games else time.monotonic() < begun + 60 * options.minutes:
        folder = Path(tempfile.mkdtemp(prefix="tocsin-chaos-"))
        try:
            game = asyncio.run(play(options.seed + number, options.seconds, folder, options.postgres))
            print(game, flush=True)
            deaths += game.deaths
            shutil.rmtree(folder)  # of a game that was lost everything stays
        except Disagreement as wrong:
            lost += 1
            print(f"DISAGREEMENT {wrong}", flush=True)
        number += 1
    print(f"{number} games, {lost} lost; fail points struck at:")
    print("\n".join(f"  {count:4} {where}" for where, count in deaths.most_common(30)))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
