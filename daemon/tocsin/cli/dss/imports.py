"""From DSS's own reporters to a configuration of Tocsin that tells the same.

What Tocsin cannot do as DSS does is never guessed: it is left out and noted, one line each with the reason. The result
is a whole configuration, so that it can be checked and tried as it is; secrets stand in files beside it.
"""

import re

import yaml

from tocsin.cli.dss.channels import NotCarried, Way, way_of
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.dss.trouble import told
from tocsin.cli.exits import one_line
from tocsin.config.model import Node
from tocsin.config.secrets import EnvSecret, FileSecret
from tocsin.dss import DSSError
from tocsin.dss.fields import get_object, get_text
from tocsin.dss.wire import Raw
from tocsin.model.labels import Matcher, Op
from tocsin.routing.formula import BadFormula, parse

_HEAD = """\
# Made by `tocsin reporter import` from the reporters of DSS itself. To use it beside a configuration of your own, copy
# `receivers:` and `reporters:`; then switch the reporters in DSS off, or everything is told twice.
"""
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_KNOWN = frozenset(
    {"projectKey", "scenarioProjectKey", "scenarioId", "scenarioName", "outcome", "triggerName", "triggerType"}
    | {"scenarioRunURL", "dssURL", "scenarioTriggerRunId", "scenarioTriggerTime"}
)


class Import:
    """Gathers receivers, reporters, secrets and notes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._channels: dict[str, dict[str, Raw]] = {}
        self.receivers: dict[str, Raw] = {}
        self.reporters: list[Raw] = []
        self.secrets: dict[str, str] = {}  # by file, below the configuration's folder
        self.notes: list[str] = []
        self.carried = 0  # of DSS's reporters; one that writes to each of several people makes several here

    async def read_channels(self) -> None:
        """Read the messaging channels of each node, with the settings that the key may see."""
        for node in self._session.nodes:
            known = self._channels[node] = {}
            try:
                channels = await self._session.client(node).list_messaging_channels()
            except DSSError as error:
                self.notes.append(f"{node}: the messaging channels cannot be read: {told(error)}")
                continue
            for channel in channels:
                try:
                    configuration = get_object(await channel.get_settings(), "configuration")
                except DSSError:  # only an admin key may read them; those who need them say so
                    configuration = {}
                known[channel.id] = {"type": channel.type, "sender": channel.sender, **configuration}

    def add(self, target: Target, reporter: Raw) -> None:
        """Carry one reporter over, or note why not."""
        name = f"{target.project}/{target.id}/{get_text(reporter, 'name') or 'unnamed'}"
        if len(self._session.nodes) > 1:
            name = f"{target.node}/{name}"
        try:
            if not reporter.get("active", True):
                raise NotCarried("it is switched off in DSS")
            way = way_of(get_object(reporter, "messaging"), self._channels[target.node])
        except NotCarried as error:
            self._note(name, f"not carried over: {error}")
            return
        self.carried += 1
        for note in way.notes:
            self._note(name, note)
        made: Raw = {"name": self._unique(name), "receiver": self._receiver(way)}
        if get_text(reporter, "phase") == "START":
            made["on"] = ["run.started"]
        made["match"] = [str(matcher) for matcher in _matchers(target)]
        made |= self._condition(name, reporter) | self._words(name, way)
        for number, mail in enumerate(way.mails or ({},)):
            part = {**made, **({"mail": mail} if mail else {})}
            self.reporters.append(part if number == 0 else {**part, "name": self._unique(name)})

    def _note(self, name: str, words: str) -> None:
        self.notes.append(f"{one_line(name)}: {one_line(words)}")

    def _unique(self, name: str) -> str:
        taken = {reporter["name"] for reporter in self.reporters}
        base = one_line(name)[:190]
        names = (base if number == 1 else f"{base} ({number})" for number in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)

    def _receiver(self, way: Way) -> str:
        """The receiver for this way; reporters that lead to the same address share one."""
        name = next((known for known, held in self.receivers.items() if held["way"] == way.key), None)
        if name is None:
            number = 1 + sum(1 for known in self.receivers if known.rpartition("-")[0] == way.name or known == way.name)
            name = way.name if number == 1 else f"{way.name}-{number}"
            channel: Raw = {"name": name}
            if way.secret:
                file = f"secrets/{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}"
                self.secrets[file] = way.address
                channel[f"{way.kind}_file"] = file
            else:
                channel[way.kind] = way.address
            self.receivers[name] = {"way": way.key, "channel": channel | way.options}
        return name

    def _condition(self, name: str, reporter: Raw) -> Raw:
        condition = get_text(reporter, "runCondition") or ""
        if not reporter.get("runConditionEnabled") or not condition.strip():
            return {}
        try:
            parse(condition)
        except BadFormula as error:
            self._note(name, f"its condition is left out, so it tells every time: {error}")
            return {}
        return {"condition": condition}

    def _words(self, name: str, way: Way) -> Raw:
        """Subject and message, if nothing stands in them that Tocsin does not fill."""
        words: Raw = {}
        for key, written in (("subject", way.subject), ("message", way.message)):
            if not written:
                continue
            if trouble := _strange(written):
                self._note(name, f"its {key} is left out for Tocsin's own: {trouble}")
            else:
                words[key] = written
        if way.log:
            words["attach"] = ["log"]
        return words

    def hide_secrets(self) -> None:
        """For where everybody may read: headers stand in the configuration itself, and may be secrets."""
        for name, held in self.receivers.items():
            if headers := held["channel"].pop("headers", None):
                self._note(name, f"its headers {', '.join(headers)} are left out; --output writes them")

    def as_json(self) -> Raw:
        """The configuration and the notes."""
        return {"configuration": self._configuration(), "secrets": sorted(self.secrets), "notes": self.notes}

    def as_yaml(self) -> str:
        """The configuration with the notes as comments."""
        notes = "".join(f"#   {note}\n" for note in self.notes)
        head = _HEAD + (f"# Not carried over, or only in part:\n{notes}" if notes else "")
        return head + yaml.safe_dump(self._configuration(), sort_keys=False, allow_unicode=True, width=110)

    def _configuration(self) -> Raw:
        receivers = [{"name": name, "channels": [held["channel"]]} for name, held in self.receivers.items()]
        nodes = [_node(node) for node in self._session.nodes.values()]
        return {"nodes": nodes, "receivers": receivers, "reporters": self.reporters, "rules": []}


def _matchers(target: Target) -> list[Matcher]:
    labels = {"dss_node": target.node, "project": target.project, "scenario": target.id}
    return [Matcher(name, Op.EQUAL, value) for name, value in labels.items()]


def _strange(written: str) -> str | None:
    """What in a text of DSS Tocsin would not fill as DSS does; None if there is nothing."""
    if any(sign in written for sign in ("<#", "<@", "[#", "[=")):
        return "it is a FreeMarker template"
    if any(sign in written for sign in ("{{", "{%", "{#")):
        return "it holds what Tocsin would read as a template of its own"
    expressions = [found.strip() for found in _VARIABLE.findall(written)]
    strange = [
        one for one in expressions if one not in _KNOWN and not re.fullmatch(r"(stepOutcome|mailVariables)_\w+", one)
    ]
    return f"Tocsin does not know ${{{strange[0]}}}" if strange else None


def _node(node: Node) -> Raw:
    """A node as the configuration writes it, with the place of its key and never the key itself."""
    kind = "bearer" if node.bearer is not None else "api_key"
    match node.bearer or node.api_key:
        case FileSecret(path):
            key = {f"{kind}_file": str(path.absolute())}
        case EnvSecret(name):
            key = {f"{kind}_env": name}
        case _:
            key = {f"{kind}_file": "secrets/dss-key"}
    return {"name": node.name, "url": node.url, **key}
