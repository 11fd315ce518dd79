"""``python -m tests.e2e.slack_at URL VERB…``: Tocsin whose ``slack://`` channels lead to a local server."""

import sys

from apprise.plugins.slack import NotifySlack

from tocsin.cli import main

if __name__ == "__main__":
    NotifySlack.webhook_url = sys.argv.pop(1)
    main()
