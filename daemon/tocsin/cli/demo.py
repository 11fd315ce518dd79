"""``tocsin demo``: an emulated DSS with lively projects, the daemon, and two inboxes, all on this machine."""

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tocsin.cli.exits import NO, tell
from tocsin.cli.verb import typer_app

if TYPE_CHECKING:
    from tocsin.app.build import Daemon
    from tocsin.cli.inboxes import Inboxes

_CONFIG = """\
# The configuration of this demo; `tocsin check --config` reads it as any other.
nodes:
  - name: demo
    url: {dss}
    api_key: {key}
    watch: {{sweep_interval: 1s, discovery_interval: 10s, max_poll_interval: 1m, max_requests_per_second: 20}}
store: {{url: "sqlite:///{folder}/tocsin.db"}}
http: {{listen: "{listen}", external_url: "http://{listen}"}}
receivers:
  - name: team
    channels:
      - {{name: mail, url: "mailto://127.0.0.1:{smtp}?from=tocsin@demo.local&to=team@demo.local"}}
      - {{name: slack, url: "slack://T00000000/B00000000/demo0demo0demo0demo0demo/"}}
reporters:
  - name: every-night
    on: [run.finished, run.failed, run.aborted]
    match: ['scenario=~".*NIGHTLY.*"']
    receiver: team
    subject: "DSS scenario ${{scenarioName}}: ${{outcome}}"
route:
  receiver: team
  group_by: [alertname, dss_node, project]
  group_wait: 2s
  group_interval: 10s
  repeat_interval: 1h
"""


app = typer_app()


@app.command()
def demo(
    listen: Annotated[str, typer.Option(help="Where Tocsin listens.")] = "127.0.0.1:8080",
    seconds: Annotated[int | None, typer.Option(help="End by itself after so many seconds, with exit 0.")] = None,
) -> None:
    """Show Tocsin at work on an emulated DSS. Nothing leaves this machine."""
    from tocsin.app.run import CannotStart, hard_exit
    from tocsin.config import BadConfig

    try:
        code = asyncio.run(_demo(listen, seconds))
    except (CannotStart, BadConfig) as error:
        tell(str(error))
        code = NO
    hard_exit(code)


async def _demo(listen: str, seconds: int | None) -> int:
    from tocsin.app.reload import Source
    from tocsin.app.run import serve
    from tocsin.cli.inboxes import Inboxes
    from tocsin.kit.clock import SystemClock
    from tocsin.sim import DEFAULT_KEY, Sim, lively_world

    clock = SystemClock()
    inboxes = Inboxes(clock, lambda line: print(f"{clock.now():%H:%M:%S}  {line}", flush=True))
    sim = Sim(lively_world())
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-demo-")))
        dss = await sim.start()
        stack.push_async_callback(sim.stop)
        await inboxes.start()
        stack.push_async_callback(inboxes.stop)
        config = folder / "tocsin.yaml"
        smtp = inboxes.smtp_port
        config.write_text(_CONFIG.format(dss=dss, key=DEFAULT_KEY, folder=folder, listen=listen, smtp=smtp))
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, stop.set)

        async def ready(daemon: "Daemon") -> None:
            _tell_where(daemon, dss, inboxes, config)
            daemon.tasks.spawn("tell events", _tell_events(daemon))

        return await serve(
            Source(config),
            clock=clock,
            ready=ready,
            stop=stop,
            log_level="warning",
            slack_url=f"{inboxes.url}/services",
        )


def _tell_where(daemon: "Daemon", dss: str, inboxes: "Inboxes", config: object) -> None:
    print(
        f"""
  Tocsin         {daemon.url}/
  metrics        {daemon.url}/metrics
  mail inbox     {inboxes.url}/mail
  Slack inbox    {inboxes.url}/slack
  emulated DSS   {dss}  (its API; no pages)
  configuration  {config}

  One line for each event and message follows; Ctrl-C ends it.
""",
        flush=True,
    )


async def _tell_events(daemon: "Daemon") -> None:
    """Print each event once it has its place in the public order."""
    from tocsin.kit.clock import human_duration
    from tocsin.store import events

    after = await daemon.store.read(events.last_seq)
    while True:
        for event in await daemon.store.read(events.list_events, after=after):
            after = event.seq or after
            place = f"{event.project}/{event.scenario.id}" if event.scenario else event.node
            took = event.run.duration if event.run else None
            end = f"  {event.run.outcome or ''} after {human_duration(took)}" if event.run and took is not None else ""
            print(f"{event.detected_at:%H:%M:%S}  event  {event.name:<13} {place}{end}", flush=True)
        await asyncio.sleep(0.3)
