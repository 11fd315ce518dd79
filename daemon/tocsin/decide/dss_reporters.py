"""DSS's own mail reporters in the deciders' hands: their rows, the mail channels, what a configuration forgets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from tocsin.config.model import Channel, Config, DssReportersConfig
from tocsin.config.secrets import Secret
from tocsin.model.event import END_EVENTS, Event
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.model.scenario import MailReporter
from tocsin.routing import dss_reporters as mirror
from tocsin.store.events import early_failures
from tocsin.store.scenarios import get_mail_reporters

_MAIL = ("mailto:", "mailtos:")  # the schemes whose mails take another sender and other recipients


@dataclass(frozen=True, slots=True)
class Own:
    """DSS's own reporters as one batch of events needs them; a scenario whose were never read is absent."""

    config: DssReportersConfig
    reporters: Mapping[ScenarioKey, tuple[MailReporter, ...]]
    early: Mapping[RunKey, Sequence[Event]]  # failures of reporters that came before the end of their run
    channels: Sequence[Channel]

    def about(self, event: Event) -> Sequence[mirror.Mirrored] | None:
        """What they do about an event that concerns them; None when that is not known."""
        known = None if event.key is None else self.reporters.get(event.key)
        if self.config.mode == "fallback" and event.name in END_EVENTS:
            return [
                one
                for failed in (self.early.get(event.run.key, ()) if event.run and known else ())
                for one in mirror.stood_in_for(self.config, failed, known or (), event.run) or ()
            ]
        if known is None or self.config.mode == "mirror":
            return None if known is None else mirror.mirrored(self.config, event, known)
        return mirror.stood_in_for(self.config, event, known)


def own(connection: Connection, config: Config, events: Iterable[Event], channels: Sequence[Channel]) -> Own:
    """What these events need; nothing is read for those that do not concern DSS's reporters. ``channels``: the mail
    channels."""
    wanted = config.dss_reporters
    mine = [event for event in events if mirror.concerns(wanted, event)]
    early: dict[RunKey, list[Event]] = {}
    if wanted.mode == "fallback":
        ended = {event.run.key for event in mine if event.run and event.name in END_EVENTS}
        early = early_failures(connection, ended)
        mine = [event for event in mine if event.reporter or (event.run and event.run.key in early)]
    keys = {event.key for event in mine if event.key is not None}
    return Own(wanted, get_mail_reporters(connection, keys), early, channels)


async def mail_channels(config: Config) -> list[Channel]:
    """The mail channels of the receiver of DSS's reporters, none when it sends nothing. One whose URL cannot be read
    now counts as one: what is owed to it waits until it can."""
    found = []
    for channel, url in _by_url(config) if config.dss_reporters.mode != "off" else ():
        try:
            if _is_mail(await url.read()):
                found.append(channel)
        except OSError:
            found.append(channel)
    return found


def _by_url(config: Config) -> Iterator[tuple[Channel, Secret]]:
    receiver = config.receiver(config.dss_reporters.receiver or "")
    for channel in receiver.channels if receiver else ():
        if channel.url is not None:
            yield channel, channel.url


def _is_mail(url: str) -> bool:
    return url.strip().lower().startswith(_MAIL)


def warnings(config: Config) -> Iterator[str]:
    """What makes ``dss_reporters`` send nothing although it is switched on."""
    wanted = config.dss_reporters
    if wanted.mode == "off":
        return
    for name in ("allow_recipients", "allow_senders"):
        if not getattr(wanted, name):
            yield f"dss_reporters: {name} is empty, so mode {wanted.mode} sends nothing; name globs on addresses"
    if not any(_may_be_mail(url) for _, url in _by_url(config)):
        yield f"dss_reporters: receiver {wanted.receiver!r} has no mailto:// or mailtos:// channel"


def _may_be_mail(url: Secret) -> bool:
    try:
        return _is_mail(url.reveal())
    except OSError:
        return True
