"""Rules: events and time → alerts. Pure functions of (state, event or view, now): no I/O, no clock.

Here are the registry of their kinds and the identity of configured ones.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping

from tocsin.config.model import Rule
from tocsin.model.labels import matchers_text
from tocsin.rules.outages import NodeDownRule
from tocsin.rules.rule import AnyRule
from tocsin.rules.runs import FailedRule, OverlongRule, StaleRule
from tocsin.rules.starts import MissedRule

KINDS: Mapping[str, type[AnyRule]] = {
    "failed": FailedRule,
    "missed": MissedRule,
    "overlong": OverlongRule,
    "stale": StaleRule,
    "node_down": NodeDownRule,
}


def compile_rule(rule: Rule) -> AnyRule:
    """A rule with its identity: the alert name, a digest of the kind, the matchers and the rule's own labels, and the
    severity."""
    text = f"{rule.kind}|{matchers_text(rule.match)}|{sorted(rule.labels.items())!r}"
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return KINDS[rule.kind](f"{rule.alert}:{digest}:{rule.severity}", rule)


def renamed_rules(stored: Iterable[str], present: Collection[str]) -> dict[str, str]:
    """Rules of which nothing but the severity has changed: the identity in the rows → the present one."""
    stored = set(stored)
    gone: dict[tuple[str, str], list[str]] = {}
    new: dict[tuple[str, str], list[str]] = {}
    for ids, by_identity in ((stored.difference(present), gone), (set(present) - stored, new)):
        for rule_id in sorted(ids):
            head, _, tail = rule_id.rpartition(":")
            by_identity.setdefault((head, tail.partition("/")[2]), []).append(rule_id)  # without the severity
    return {rules[0]: new[same][0] for same, rules in gone.items() if len(rules) == len(new.get(same, ())) == 1}
