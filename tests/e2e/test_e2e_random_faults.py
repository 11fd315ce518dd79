"""Half a minute of ``python -m bench faults``, at a pace that any machine keeps."""

from bench.faults import play
from tests.fakedss import Differences


async def test_a_node_with_random_faults_and_an_outage_loses_nothing_and_is_asked_on(tmp_path):
    figures = await play(tmp_path, seed=11, seconds=45, requests=15, rate=1, projects=5)
    print(figures)
    assert figures.wrong == Differences()
    assert figures.downs <= figures.outages
    assert figures.used > 0.4
