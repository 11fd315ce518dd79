"""The verbs that stay: ``run`` is the daemon, ``sim`` an emulated DSS, ``demo`` both together with inboxes."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import click

from tocsin.cli.exits import DONE, NO, USAGE, fail, print_stderr
from tocsin.cli.verb import ConfigOption, Option, command

if TYPE_CHECKING:
    from tocsin.app.build import Daemon

_CONFIG = """\
# The configuration of this demo; `tocsin check --config` reads it as any other.
nodes:
  - name: demo
    url: {dss}
    api_key: {key}
    watch: {{sweep_interval: 1s, discovery_interval: 10s, max_poll_interval: 1m, max_requests_per_second: 20}}
store: {{url: "sqlite:///{folder}/tocsin.db"}}
http: {{listen: "{listen}", external_url: "{shown}", tokens_file: {tokens}}}
receivers:
  - name: team
    channels:
      - {{name: mail, url: "mailto://127.0.0.1:{smtp}?from=tocsin@demo.local&to=team@demo.local"}}
      - {{name: slack, slack: {{channel: {channel}, token: {token}, api_url: "{inboxes}/slack/api"}}}}
  - name: oncall
    channels:
      - {{name: pagerduty, pagerduty: {{routing_key: {routing_key}, url: "{inboxes}/pagerduty/v2/enqueue"}}}}
  - name: reports
    channels:
      - {{name: reports-mail, url: "mailto://127.0.0.1:{smtp}?from=tocsin@demo.local&to=reports@demo.local"}}
reporters:
  - name: every-night     # failures make alerts, which tell of themselves
    on: [run.finished]
    match: ['scenario=~".*NIGHTLY.*"']
    condition: "outcome == 'SUCCESS'"
    receiver: reports
    subject: "DSS scenario ${{scenarioName}}: ${{outcome}}"
route:
  receiver: team
  routes:
    - {{receiver: oncall, continue: true}}
    - {{receiver: team}}
  group_by: [alertname, dss_node, project]
  group_wait: 2s
  group_interval: 10s
  repeat_interval: 1h
"""


@command(None, "run")
def run(config: ConfigOption = None) -> None:
    """Run the daemon until SIGTERM or SIGINT."""
    # Until the daemon handles signals nothing is begun that could be left half done. The first process of a container
    # ignores a signal that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(DONE))

    from tocsin.config import BadConfig
    from tocsin.config.load import check_sections, config_path_from_environment

    try:
        check_sections(config or config_path_from_environment())
    except BadConfig as error:
        fail(str(error))

    from tocsin.app.logs import log_python_errors
    from tocsin.app.reload import Source
    from tocsin.app.run import CannotStart, hard_exit, new_event_loop, serve

    log_python_errors()

    async def daemon() -> NoReturn:
        hard_exit(await serve(Source(config)))  # inside the loop, whose own end would wait for every hanging thread

    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(daemon())
    except (BadConfig, CannotStart) as error:
        print_stderr(str(error))
    hard_exit(NO)


@command(None, "demo")
def demo(
    listen: Annotated[
        str,
        Option(
            metavar="HOST:PORT",
            help="Where Tocsin listens, the inboxes one port above; port 0 takes any. Beyond loopback a token is made.",
        ),
    ] = "127.0.0.1:8080",
    seconds: Annotated[int | None, Option(help="End by itself after so many seconds, with exit 0.")] = None,
) -> None:
    """Show Tocsin at work on an emulated DSS. Nothing leaves this machine."""
    from tocsin.app.run import CannotStart, hard_exit, new_event_loop
    from tocsin.config import BadConfig

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            hard_exit(runner.run(_run_demo(host, int(port), seconds)))
    except (CannotStart, BadConfig) as error:
        print_stderr(str(error))
    hard_exit(NO)


async def _run_demo(host: str, port: int, seconds: int | None) -> int:
    import hashlib
    import secrets
    import socket

    from tocsin.app.reload import Source
    from tocsin.app.run import CannotStart, serve
    from tocsin.cli.inboxes import ROUTING_KEY, SLACK_CHANNEL, SLACK_TOKEN, Inboxes
    from tocsin.kit.clock import SystemClock
    from tocsin.kit.proxy import is_loopback
    from tocsin.sim import DEFAULT_KEY, Sim, lively_world

    listen, bare = f"{host}:{port}", host.strip("[]")
    token = None if is_loopback(bare) else secrets.token_urlsafe(18)
    named = socket.gethostname() if bare in ("0.0.0.0", "::") else host  # for links that others follow
    clock = SystemClock()
    inboxes = Inboxes(clock, lambda line: print(f"{clock.now():%H:%M:%S}  {line}", flush=True))
    dss = Sim(lively_world())
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-demo-")))
        url = await dss.start()
        stack.push_async_callback(dss.stop)
        try:
            await stack.enter_async_context(inboxes.listen(bare, port + 1 if port else 0))
        except OSError as error:
            raise CannotStart(f"cannot listen on {bare}: {error.strerror or error}; set --listen") from None
        config, tokens, token_file = (folder / name for name in ("tocsin.yaml", "tokens", "token"))
        if token is not None:
            token_file.write_text(token)
            tokens.write_text(f"demo operator {hashlib.sha256(token.encode()).hexdigest()}\n")
        config.write_text(
            _CONFIG.format(
                dss=url,
                key=DEFAULT_KEY,
                folder=folder,
                listen=listen,
                shown=f"http://{named}:{port}",
                tokens="null" if token is None else tokens,
                smtp=inboxes.smtp_port,
                inboxes=inboxes.url,
                channel=SLACK_CHANNEL,
                token=SLACK_TOKEN,
                routing_key=ROUTING_KEY,
            )
        )
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, stop.set)

        async def ready(daemon: "Daemon") -> None:
            shown, pages = (f"http://{named}:{number}" for number in (daemon.port, inboxes.port))
            lines = [
                ("Tocsin", f"{shown}/"),
                *([] if token is None else [("token", token)]),
                ("metrics", f"{shown}/metrics"),
                ("mail inbox", f"{pages}/mail"),
                ("Slack inbox", f"{pages}/slack"),
                ("PagerDuty", f"{pages}/pagerduty"),
                ("emulated DSS", url),
                ("configuration", str(config)),
            ]
            print("\n" + "\n".join(f"  {name:<15}{value}" for name, value in lines))
            print(_next_steps(shown, token_file if token else None, config))
            if token is None:
                forward = (
                    f"ssh -L {daemon.port}:127.0.0.1:{daemon.port} -L {inboxes.port}:127.0.0.1:{inboxes.port} HOST"
                )
                print(f"  From another machine:  {forward}")
            print("\n  One line for each event and message follows; Ctrl-C ends it.\n", flush=True)
            daemon.tasks.spawn("print events", _print_events(daemon))

        return await serve(
            Source(config), clock=clock, ready=ready, stop=stop, log_level="warning", listen_setting="--listen"
        )


def _next_steps(url: str, token_file: Path | None, config: Path) -> str:
    """What to try beside the demo, as it can be pasted into a shell."""
    from shutil import which

    command = "tocsin" if which("tocsin") else str(Path(sys.argv[0]).absolute())
    environment = f"TOCSIN_URL={url}" + (f" TOCSIN_TOKEN_FILE={token_file}" if token_file else "")
    return f"""
  A tour       {url}/            what runs, what failed, what fires
               {url}/scenarios   every scenario, with its runs and durations
               {url}/alerts      acknowledge one, or silence it
               {url}/deliveries  who was told what, and each attempt

  In another shell
    export {environment}
    {command} alerts list
    {command} explain demo/SALES_FORECAST/NIGHTLY_REBUILD/last
    {command} silence add project=SALES_FORECAST --duration 10m
    {command} doctor --config {config}
"""


async def _print_events(daemon: "Daemon") -> None:
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
            if event.reporter is not None:  # of DSS; of the run there is a line of its own
                end = f"  {event.reporter.name}: {event.reporter.error}"
            print(f"{event.detected_at:%H:%M:%S}  event  {event.name:<15} {place}{end}", flush=True)
        await asyncio.sleep(0.3)


@command(None, "sim")
def sim(
    listen: Annotated[str, Option(metavar="HOST:PORT", help="Where to listen; port 0 takes any.")] = "127.0.0.1:11200",
    api_key: Annotated[str, Option(metavar="KEY", help="The key of an administrator.")] = "",
    db: Annotated[Path | None, Option(metavar="FILE", help="Keep definitions and history in this file.")] = None,
    world: Annotated[Path | None, Option(metavar="FILE", help="The world to begin with, in YAML.")] = None,
    speed: Annotated[float, Option(metavar="X", help="How many seconds pass in one.", min=0.0, max=100_000.0)] = 1.0,
) -> None:
    """An emulated DSS: the scenario API of a design or automation node, with a lively world or one of your own."""
    from tocsin import sim as emulated

    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    try:
        seed = emulated.lively_world() if world is None else emulated.World.from_file(world)
        archive = emulated.SqliteArchive(db) if db is not None else None
    except (emulated.BadWorld, emulated.NotAnArchive, OSError, sqlite3.Error) as error:
        _refuse(str(error))
    key = api_key or emulated.DEFAULT_KEY
    dss = emulated.Sim(seed, api_keys=[key], clock=emulated.WorldClock(speed=speed), archive=archive)

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        print(f"Emulated DSS on {await dss.start(host, int(port))}  API key: {key}", flush=True)
        if host not in ("127.0.0.1", "::1", "localhost"):
            print("Careful: it executes the code of its scenarios, and others can reach it here.", file=sys.stderr)
        try:
            await stop.wait()
        finally:
            await dss.stop()

    try:
        asyncio.run(main())
    except OSError as error:
        _refuse(f"cannot listen on {listen}: {error.strerror or error}")


def _refuse(reason: str) -> NoReturn:
    print(f"tocsin sim: {reason}", file=sys.stderr)
    raise SystemExit(USAGE)
