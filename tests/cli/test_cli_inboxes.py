"""The pages of the demo's inboxes show what arrived, and run nothing of it."""

from tocsin.cli.inboxes import _mrkdwn


def test_a_link_of_slack_cannot_leave_its_attribute() -> None:
    page = _mrkdwn('<https://x.example/" onmouseover="alert(1)|label> *bold*')
    assert '"' not in page
    assert _mrkdwn("<https://x.example/a?b=1&amp;c|label>") == '<a href="https://x.example/a?b=1&amp;c">label</a>'


def test_entities_are_decoded_once() -> None:
    assert _mrkdwn("a &amp;lt;b&gt;") == "a &amp;lt;b&gt;"
