from tocsin.config.model import Route, build_tree
from tocsin.model.labels import parse_matchers
from tocsin.routing.tree import Router, format_matching, format_tree, matching_receivers, walk


def spec(matchers: str = "", receiver: str | None = None, *routes: Route, **more: object) -> Route:
    return Route(receiver, parse_matchers(matchers), routes=routes, **more)  # type: ignore[arg-type]


def tree() -> Route:
    return build_tree(
        spec(
            "",
            "default",
            spec('severity="critical"', "oncall", spec('team=~"a|b"'), continues=True),
            spec('severity="warning"', None, spec('team="a"', "team-a", group_by=("...",))),
            spec('severity="warning"', "never"),
            group_by=("alertname",),
        )
    )


def test_children_inherit_what_they_do_not_say() -> None:
    placed = {one.route.path: one.route for one in reversed(list(walk(tree())))}
    assert placed["{}", '{severity="warning"}'].receiver == "default"
    assert placed["{}", '{severity="critical"}', '{team=~"a|b"}'].group_by == ("alertname",)
    assert placed["{}", '{severity="warning"}', '{team="a"}'].group_by_all


def test_the_first_matching_child_ends_the_search_unless_it_continues() -> None:
    root = tree()
    assert matching_receivers(root, {"severity": "critical"}) == ["oncall"]
    assert matching_receivers(root, {"severity": "warning"}) == ["default"]
    assert matching_receivers(root, {"severity": "warning", "team": "a"}) == ["team-a"]
    assert matching_receivers(root, {}) == ["default"]
    assert matching_receivers(root, {"severity": "critical"}) == ["oncall"]


def test_a_group_is_known_by_path_receiver_and_labels_not_by_position() -> None:
    labels = {"severity": "warning", "team": "a", "alertname": "X"}
    (before,) = Router(tree()).match(labels)
    moved = build_tree(
        spec(
            "",
            "default",
            spec('other="x"', "new"),
            spec('severity="warning"', None, spec('team="a"', "team-a", group_by=("...",))),
            group_by=("alertname",),
        )
    )
    (after,) = Router(moved).match(labels)
    assert after.group_key == before.group_key
    assert before.group_key == (
        'team-a:{}/{severity="warning"}/{team="a"}:{alertname="X", severity="warning", team="a"}'
    )
    assert Router(moved).find("team-a", before.route.path) is after.route
    assert Router(moved).find("oncall", before.route.path) is None


def test_labels_that_no_matcher_tells_apart_take_the_same_way_but_stand_in_their_own_groups() -> None:
    router = Router(tree())
    (one,) = router.match({"alertname": "X", "project": "A"})
    (two,) = router.match({"alertname": "Y", "project": "A"})
    assert one.route is two.route
    assert (one.group_labels, two.group_labels) == ({"alertname": "X"}, {"alertname": "Y"})


def test_the_tree_is_shown_as_amtool_shows_it() -> None:
    assert format_tree(tree()).splitlines() == [
        ".",
        "└── default-route  receiver: default",
        '    ├── {severity="critical"}  continue: true  receiver: oncall',
        '    │\xa0\xa0 └── {team=~"a|b"}  receiver: oncall',
        '    ├── {severity="warning"}  receiver: default',
        '    │\xa0\xa0 └── {team="a"}  receiver: team-a',
        '    └── {severity="warning"}  receiver: never',
    ]
    assert format_matching(tree(), {"severity": "warning", "team": "a"}).splitlines() == [
        ".",
        "└── default-route",
        '    └── {severity="warning"}',
        '        └── {team="a"}  receiver: team-a',
    ]
