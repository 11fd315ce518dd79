"""A small world for timeline tests: rows as watch would write them, and the decider called with any time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from tocsin.config.model import DEFAULT_RULES, Channel, Config, Node, Receiver, Route, StoreConfig, build_tree
from tocsin.decide.decide import DecideMetrics, Decider
from tocsin.model.alert import Alert
from tocsin.model.decision import Decision
from tocsin.model.event import DownReason, Event, EventName, ScenarioFacts, end_event_name, node_event_id, run_event_id
from tocsin.model.notification import GroupNotice, Notification
from tocsin.model.run import Run, ScenarioKey
from tocsin.store import Store, alerts, events, outbox, writer
from tocsin.store.schema import alerts as alerts_table
from tocsin.store.schema import decisions as decisions_table
from tocsin.store.schema import expected_starts, nodes, runs, scenarios
from tocsin.store.schema import outbox as outbox_table
from tocsin.store.sql import insert

T0 = datetime(2026, 3, 2, 6, tzinfo=UTC)  # a Monday


# The shipped rules, but for flapping: timelines of other features turn often.
TURNS_TOLD = tuple(replace(rule, flapping=None) for rule in DEFAULT_RULES)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def key(name: str = "NIGHTLY", project: str = "SALES", node: str = "prod") -> ScenarioKey:
    return ScenarioKey(node, project, name)


def channel(name: str, receiver: str = "ops", **more: object) -> Channel:
    return replace(Channel(name, receiver), **more)  # type: ignore[arg-type]


def tree(receiver: str = "ops", **more: object) -> Route:
    spec = Route(receiver, group_by=("alertname", "dss_node", "project"))
    return build_tree(replace(spec, **more))  # type: ignore[arg-type]


def config(**more: object) -> Config:
    plain = Config(
        nodes=(Node("prod", "https://dss.example.com/"),),
        store=StoreConfig("sqlite:////unused"),
        receivers=(Receiver("ops", (channel("ops/slack"),)),),
        rules=TURNS_TOLD,
        route=tree(),
        inhibit_rules=(),
    )
    return replace(plain, **more)  # type: ignore[arg-type]


@dataclass
class World:
    store: Store
    config: Config = field(default_factory=config)
    decider: Decider | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    rung: int = 0
    asked: list[ScenarioKey] = field(default_factory=list)  # for whose polls rules wait
    seen: set[str] = field(default_factory=set)
    away: bool = False  # nothing of the node is seen
    reading_back: bool = False  # what happened meanwhile is late
    open_runs: dict[ScenarioKey, Run] = field(default_factory=dict)
    decides_at_once: bool = False  # events are decided in the transaction that writes them

    async def begin(self) -> "World":
        await self.restart(T0)
        await self.node()
        await self.scenario(key())
        return self

    async def restart(self, now: datetime) -> None:
        """A new process on the same rows."""
        leadership = await self.store.write(writer.acquire_lease, "test", now)
        assert leadership

        def ring() -> None:
            self.rung += 1

        self.registry = CollectorRegistry()
        self.decider = Decider(self.store, leadership, DecideMetrics(self.registry), ring, poll=self.asked.append)

    async def node(self, name: str = "prod", **values: object) -> None:
        row = {"node": name, "watched_since": T0 - timedelta(days=30), "up": True, "backfilling": False} | values
        await self.store.write(
            lambda c: (
                c.execute(insert(c, nodes).values(row).on_conflict_do_update(index_elements=["node"], set_=row))
                and None
            )
        )

    async def scenario(self, of: ScenarioKey, **values: object) -> None:
        row = of._asdict() | {
            "name": of.scenario.title(),
            "tags": (),
            "follows": (),
            "active": True,
            "watched_since": T0 - timedelta(days=30),
            "watermark": T0 - timedelta(days=30),
            "backfilled": True,
        }
        row |= values
        await self.store.write(
            lambda c: (
                c.execute(
                    insert(c, scenarios)
                    .values(row)
                    .on_conflict_do_update(index_elements=["node", "project", "scenario"], set_=row)
                )
                and None
            )
        )

    async def look(self, at: datetime, of: ScenarioKey | None = None, **values: object) -> None:
        """A good look, and a status read with it, of one scenario or of all."""
        change = update(scenarios).values({"polled_at": at, "status_read_at": at} | values)
        if of is not None:
            change = change.where(*(scenarios.c[name] == part for name, part in of._asdict().items()))
        await self.store.write(lambda c: c.execute(change) and None)

    async def expect(self, at: datetime, of: ScenarioKey | None = None) -> None:
        row = (of or key())._asdict() | {"at": at, "state": "pending", "learned_at": T0}
        await self.store.write(lambda c: c.execute(insert(c, expected_starts).values(row)) and None)

    async def starts(self, of: ScenarioKey | None = None) -> list[tuple[datetime, str]]:
        query = select(expected_starts.c.at, expected_starts.c.state).order_by(expected_starts.c.at)
        if of is not None:
            query = query.where(expected_starts.c.scenario == of.scenario)
        return [(at, state) for at, state in await self.store.read(lambda c: list(c.execute(query)))]

    async def start(
        self, at: datetime, of: ScenarioKey | None = None, *, trigger: str = "temporal", late: bool = False,
        seen: datetime | None = None,
    ) -> Run:  # fmt: skip
        run = Run(of or key(), f"run-{at:%Y-%m-%d-%H-%M-%S}", at, trigger_type=trigger, fire_id="f1")
        self.open_runs[run.scenario] = run
        await self.write_run(run, [self.event(EventName.RUN_STARTED, run, seen or at, late=late)])
        return run

    async def end(
        self, at: datetime, outcome: str = "SUCCESS", of: ScenarioKey | None = None, *, late: bool = False,
        previous: str | None = None, seen: datetime | None = None,
    ) -> Event:  # fmt: skip
        run = replace(self.open_runs.pop(of or key()), end=at, outcome=outcome)
        event = self.event(end_event_name(outcome), run, seen or at, late=late, previous=previous)
        await self.write_run(run, [event])
        return event

    async def run(
        self, at: datetime, outcome: str, of: ScenarioKey | None = None, *, length: timedelta = timedelta(minutes=1),
        late: bool = False, baseline: bool = False,
    ) -> Event:  # fmt: skip
        """A whole run."""
        if baseline:
            run = Run(of or key(), f"run-{at:%Y-%m-%d-%H-%M-%S}", at, at + length, outcome, "temporal")
            await self.write_run(run, [], baseline=True)
            return self.event(end_event_name(outcome), run, at)
        await self.start(at, of, late=late)
        return await self.end(at + length, outcome, of, late=late)

    def event(
        self, name: EventName, run: Run, seen: datetime, *, late: bool = False, previous: str | None = None
    ) -> Event:
        scenario = run.scenario
        return Event(
            id=run_event_id(run, name),
            name=name,
            node=scenario.node,
            time=run.start if name is EventName.RUN_STARTED else run.end or run.start,
            detected_at=seen,
            project=scenario.project,
            scenario=ScenarioFacts(scenario.scenario, scenario.scenario.title(), ()),
            run=run,
            run_url=f"https://dss.example.com/projects/{scenario.project}/scenarios/{scenario.scenario}/runs/list/{run.run_id}",
            previous_outcome=previous,
            late=late,
        )

    async def write_run(self, run: Run, new: Sequence[Event], *, baseline: bool = False) -> None:
        row = run.scenario._asdict() | {
            "run_id": run.run_id,
            "start": run.start,
            "end": run.end,
            "outcome": run.outcome,
            "trigger_type": run.trigger_type,
            "baseline": baseline,
            "seen_at": run.start,
            "details_due_at": run.end if new else None,
        }

        def write(connection) -> None:  # type: ignore[no-untyped-def]
            statement = insert(connection, runs).values(row)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["node", "project", "scenario", "run_id", "start"], set_=row
                )
            )
            at_once = self.decider.decide_recorded if self.decider and self.decides_at_once and new else None
            if at_once is None or not at_once(connection, new, new[0].detected_at):
                events.insert_events(connection, new)

        await self.store.write(write)

    async def down(self, at: datetime, name: str = "prod") -> None:
        await self.node(name, up=False, down_since=at, down_reason="unreachable")
        await self.node_event(EventName.NODE_DOWN, at, name)

    async def up(self, at: datetime, name: str = "prod") -> None:
        await self.node(name, up=True, down_since=None, down_reason=None)
        await self.node_event(EventName.NODE_UP, at, name)

    async def node_event(self, name: EventName, at: datetime, node: str) -> None:
        reason = DownReason.UNREACHABLE if name is EventName.NODE_DOWN else None
        event = Event(node_event_id(node, name, at), name, node, at, at, reason=reason)
        await self.store.write(events.insert_events, [event])

    async def step(self, now: datetime) -> datetime | None:
        assert self.decider
        for _ in range(50):
            due = await self.decider.step(now, self.config)
            if due is None or due > now:
                return due
        raise AssertionError("the decider never comes to rest")

    async def run_until(self, start: datetime, end: datetime, every: timedelta = timedelta(minutes=1)) -> None:
        """Look and step again and again, as the daemon would."""
        now = start
        while now <= end:
            await self.look(now)
            await self.step(now)
            now += every

    async def notifications(self) -> list[Notification]:
        """What has become owed since the last time of asking, in order."""
        query = select(outbox_table.c.id).order_by(outbox_table.c.n)
        ids = [id_ for id_ in await self.store.read(lambda c: list(c.execute(query).scalars())) if id_ not in self.seen]
        self.seen |= set(ids)
        found = await self.store.read(outbox.load_notifications, ids)
        return [found[id_] for id_ in ids]

    async def told(self) -> list[tuple[str, str, list[str]]]:
        """New group notices: channel, reason, and the alerts as ``Name`` or ``Name!resolved``."""
        said = []
        for one in await self.notifications():
            if isinstance(one.notice, GroupNotice):
                names = [alert_word(alert) for alert in one.notice.alerts]
                said.append((one.channel, one.notice.reason, names))
        return said

    async def alerts(self, *, firing: bool | None = None) -> list[str]:
        return [alert_word(alert) for alert in await self.every_alert() if firing in (None, alert.firing)]

    async def alert(self) -> Alert:
        return (await self.every_alert())[-1]

    async def every_alert(self) -> list[Alert]:
        """All alerts, the oldest first."""
        query = select(alerts_table).order_by(alerts_table.c.starts_at, alerts_table.c.id.desc())
        return await self.store.read(lambda c: [alerts.to_alert(row) for row in c.execute(query)])

    async def decisions(self) -> list[Decision]:
        query = select(decisions_table).order_by(decisions_table.c.n)
        return await self.store.read(lambda c: [alerts.to_decision(row) for row in c.execute(query)])

    async def reasons(self) -> list[str]:
        return [made.reason.value for made in await self.decisions()]


def alert_word(alert: Alert) -> str:
    return alert.name if alert.end_reason is None else f"{alert.name}!{alert.end_reason.value}"
