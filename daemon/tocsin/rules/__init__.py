"""Rules: events and time → alerts. Pure functions of (state, event or view, now): no I/O, no clock."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from tocsin.config.model import Rule
from tocsin.rules.causes import CommonCauseRule
from tocsin.rules.deadlines import DeadlineRule
from tocsin.rules.outages import NodeDownRule
from tocsin.rules.rule import AnyRule
from tocsin.rules.runs import FailedRule, OverlongRule, ShortRule, StaleRule
from tocsin.rules.starts import MissedRule

KINDS: Mapping[str, type[AnyRule]] = {
    "failed": FailedRule, "missed": MissedRule, "overlong": OverlongRule, "stale": StaleRule, "deadline": DeadlineRule,
    "common_cause": CommonCauseRule, "short": ShortRule, "node_down": NodeDownRule,
}  # fmt: skip


def compile_rule(rule: Rule, timezone: str = "UTC") -> AnyRule:
    """A rule with its identity; ``timezone`` is that of a rule without a location."""
    return KINDS[rule.kind](rule.identity, rule if rule.location else replace(rule, location=timezone))


def renamed_rules(stored: Iterable[str], present: Collection[str]) -> dict[str, str]:
    """Rules of which nothing but the severity has changed: the identity in the rows → the present one."""
    pairs: dict[tuple[str, str], tuple[list[str], list[str]]] = {}  # old and new ones, by all but the severity
    for rule_id in sorted(set(stored) ^ set(present)):
        head, _, tail = rule_id.rpartition(":")
        old, new = pairs.setdefault((head, tail.partition("/")[2]), ([], []))
        (new if rule_id in present else old).append(rule_id)
    return {old[0]: new[0] for old, new in pairs.values() if len(old) == len(new) == 1}
