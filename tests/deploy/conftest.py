"""The tools, and the chart under each Helm. What is absent skips, and says how to get it."""

from collections.abc import Callable

import pytest

from tests.deploy.charts import Chart, find_tool


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a command; the test skips where it is absent."""

    def path(name: str) -> str:
        found = find_tool(name)
        if found is None:
            pytest.skip(f"{name} is not here; .ci/tools installs it")
        return found

    return path


def helm_command(tool: Callable[[str], str], name: str) -> str:
    """``helm3`` or ``helm4``; a plain ``helm`` on PATH serves where neither is there."""
    return find_tool(name) or tool("helm" if find_tool("helm") else name)


@pytest.fixture(scope="session", params=["helm3", "helm4"])
def either_chart(request: pytest.FixtureRequest, tool: Callable[[str], str]) -> Chart:
    """The chart under Helm 3, then under Helm 4."""
    return Chart(helm_command(tool, request.param))


@pytest.fixture(scope="session")
def chart(tool: Callable[[str], str]) -> Chart:
    """The chart under the newer Helm."""
    return Chart(helm_command(tool, "helm4"))
