"""Kill -9 at each step of a send: delivered at least once, twice only while the receipt was written, under one id."""

import pytest

from tests.fakedss import DaemonProcess, SmtpSink, config_for, eventually, faults

CLAIMED = "after DELETE FROM outbox_waits WHERE outbox_waits.notification_id IN"
TRIED = "after UPDATE attempts SET"
STANDS = f"{TRIED}; before COMMIT"
STEPS = {  # where it dies, how often it was sent by then, and in the end
    "before the claim stands": ("webhook", f"{CLAIMED}; before COMMIT", 0, 1),
    "after the claim": ("webhook", f"{CLAIMED}; after COMMIT", 0, 1),
    "before the answer": ("webhook", None, 1, 2),
    "before the answer, by mail": ("mail", None, 1, 2),
    "after the answer": ("webhook", "before UPDATE outbox SET .*settled_at", 1, 2),
    "before the receipt stands": ("webhook", STANDS, 1, 2),
    "before the receipt stands, by mail": ("mail", STANDS, 1, 2),
    "after the receipt": ("webhook", f"{TRIED}; after COMMIT", 1, 1),
}


@pytest.mark.parametrize(("kind", "where", "before", "after"), STEPS.values(), ids=STEPS)
async def test_a_send_that_was_cut_off_is_made_again_under_its_id(tmp_path, dss, sink, kind, where, before, after):
    async with SmtpSink(hang_after_data=where is None) as smtp:
        mail = f"mailto://127.0.0.1:{smtp.port}?from=a@example.com&to=ops@example.com"
        channel = {"name": "hook", "webhook": sink.url} if kind == "webhook" else {"name": "mail", "url": mail}
        reporter = {"name": "starts", "on": ["run.started"], "receiver": "ops"}
        config = config_for(
            tmp_path, {"prod": dss}, sink, rules=[], reporters=[reporter],
            receivers=[{"name": "ops", "channels": [channel | {"timeout": "5s"}]}],
        )  # fmt: skip

        def sent() -> list[str]:
            if kind == "webhook":
                return [post.headers["webhook-id"] for post in sink.posts]
            return [mail.message["Message-ID"] for mail in smtp.mails]

        daemon = DaemonProcess(config)
        if where is not None:
            daemon.module = ("tests.e2e.failpoint", where)
        async with daemon:
            await daemon.watching(6)
            if where is None:
                sink.default = faults.never()
            dss.start_run("P000", "S000")
            if where is None:
                await eventually(sent)
                await daemon.kill9()
            assert await daemon.wait() == -9
            assert len(sent()) == before
            sink.default, smtp.hang_after_data = None, False
            daemon.module = ("tocsin",)
            await daemon.start()
            await daemon.ready()

            async def settled() -> bool:
                return [one["state"] for one in await daemon.items("/api/v1/deliveries")] == ["delivered"]

            await eventually(settled)
            await daemon.sigterm()
        assert len(sent()) == after
        assert len(set(sent())) == 1
