"""A channel that fails is reported through another one, and that it works again too."""

from tests.fakedss import DaemonProcess, WebhookSink, config_for, eventually, faults


def about_channels(sink):
    """What was told of channels: the status of the group, and each alert's own with the channel that it names."""
    told = [post.json for post in sink.posts if post.json.get("groupLabels", {}).get("alertname") == "ChannelFailing"]
    return [(one["status"], [(a["status"], a["labels"]["channel"]) for a in one["alerts"]]) for one in told]


async def test_a_revoked_channel_is_told_through_another_and_so_is_its_return(tmp_path, dss, sink):
    async with WebhookSink(default=faults.status(401)) as locked:
        channels = [{"name": "good", "webhook": sink.url}, {"name": "locked", "webhook": locked.url}]
        config = config_for(
            tmp_path, {"prod": dss}, sink, receivers=[{"name": "ops", "channels": channels}], reporters=[],
            route={"receiver": "ops", "group_by": ["alertname"], "group_wait": "0s", "group_interval": "1s"},
        )  # fmt: skip
        async with DaemonProcess(config) as daemon:
            await daemon.watching(6)
            dss.world.instant_run("P000", "S000", "FAILED")
            await eventually(lambda: about_channels(sink))
            assert about_channels(sink) == [("firing", [("firing", "locked")])]
            assert about_channels(locked) == []
            assert await daemon.metric('tocsin_dead_letters{reason="refused"}') == 1
            (dead,) = (one for one in await daemon.items("/api/v1/deliveries") if one["state"] == "dead")
            assert (await daemon.json("/api/v1/status"))["failing_channels"] == {"locked": 1}
            locked.default = None
            await daemon.post(f"/api/v1/deliveries/{dead['id']}/retry")
            await eventually(lambda: len(about_channels(sink)) >= 2)
            assert about_channels(sink)[1:] == [("resolved", [("resolved", "locked")])]
            assert about_channels(locked) == []
            assert (await daemon.json("/api/v1/status"))["failing_channels"] == {}
