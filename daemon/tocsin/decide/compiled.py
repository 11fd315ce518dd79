"""The configuration as the deciders use it: rules with identities, reporters by event, the tree with its memory.

Built once a configuration, before anything live is touched, and thrown away with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tocsin.config.intervals import TimeInterval
from tocsin.config.model import Channel, Config, Node, Reporter
from tocsin.model.event import EventName
from tocsin.model.labels import Labels
from tocsin.model.matcher_index import MatcherIndex, set_bits
from tocsin.model.scenario import NodeView, ScenarioView
from tocsin.routing.tree import Router
from tocsin.rules.rules import CompiledRule, compile_rule
from tocsin.rules.view import View


@dataclass(frozen=True, slots=True)
class CompiledConfig:
    """What one configuration makes of events and time."""

    config: Config
    rules: Mapping[str, CompiledRule]  # by identity
    rule_ids: frozenset[str]  # every identity under which a rule keeps states
    _rules: tuple[CompiledRule, ...]
    _index: MatcherIndex  # of their matchers
    reporters: Mapping[EventName, tuple[Reporter, ...]]
    channels: Mapping[str, tuple[Channel, ...]]  # by receiver
    intervals: Mapping[str, TimeInterval]
    router: Router | None
    nodes: Mapping[str, Node]

    def rules_for(self, labels: Labels) -> list[CompiledRule]:
        """The rules whose matchers all hold."""
        return [self._rules[place] for place in set_bits(self._index.matching(labels))]

    def view(self, node: NodeView, scenario: ScenarioView | None, now: datetime) -> View:
        """What a rule gets to see; ``now`` is on Tocsin's clock. Scenarios are judged by the cautious clock."""
        node = node if scenario is None else node.cautious
        configured = self.nodes.get(node.node)
        base_url = configured.url.rstrip("/") if configured else ""
        return View(now + node.clock_offset, node, scenario, base_url=base_url)


def compile_config(config: Config) -> CompiledConfig:
    """The plan of a configuration. Of several rules with one identity the first counts; ``tocsin check`` names them."""
    rules: dict[str, CompiledRule] = {}
    for rule in config.rules:
        one = compile_rule(rule)
        rules.setdefault(one.id, one)
    return CompiledConfig(
        config=config,
        rules=rules,
        rule_ids=frozenset(id_ for one in rules.values() for id_ in (one.id, one.stalled_id)),
        _rules=tuple(rules.values()),
        _index=MatcherIndex(one.rule.match for one in rules.values()),
        reporters={name: tuple(reporter for reporter in config.reporters if name in reporter.on) for name in EventName},
        channels={receiver.name: receiver.channels for receiver in config.receivers},
        intervals={interval.name: interval for interval in config.time_intervals},
        router=None if config.route is None else Router(config.route),
        nodes={node.name: node for node in config.nodes},
    )
