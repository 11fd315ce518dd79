"""Nonsense sent to every address that the API describes: each is refused in the described way, and none is an error."""

import asyncio
import os
import re

import pytest

from tests.deploy.charts import find_tool
from tests.fakedss import DaemonProcess, config_for, eventually

SECONDS = os.environ.get("TOCSIN_FUZZ_SECONDS", "30")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)


@pytest.mark.slow
@pytest.mark.timeout(120 + int(SECONDS))
async def test_schemathesis_finds_no_error_behind_the_description_of_the_api(tmp_path, dss, sink):
    schemathesis = find_tool("schemathesis")
    if schemathesis is None:
        pytest.skip("schemathesis is not here; .ci/tools installs it")
    config = config_for(tmp_path, {"prod": dss}, sink)
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        dss.start_run("P000", "S000")
        dss.end_run("P000", "S000", "FAILED")
        await eventually(lambda: len(sink.posts) >= 2)
        process = await asyncio.create_subprocess_exec(
            schemathesis, "run", f"{daemon.url}/api/v1/openapi.json", "--url", daemon.url, "--checks", CHECKS,
            "--phases", "coverage,fuzzing", "--max-time", SECONDS, "--continue-on-failure",
            "--exclude-path", "/api/v1/events/stream",  # it never ends
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, said
        (counts,) = re.findall(r"(\d+) selected / (\d+) total", said)
        assert int(counts[0]) == int(counts[1]) - 1 >= 22
        assert [line for line in daemon.stderr if "Traceback" in line] == []
        assert await daemon.status_of("/-/ready") == 200
