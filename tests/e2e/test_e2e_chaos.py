"""A seeded minute of ``make chaos``."""

from tests.e2e.chaos import play


async def test_a_minute_of_kills_and_faults_loses_nothing_doubles_nothing_invents_nothing(tmp_path):
    game = await play(seed=104, seconds=45, folder=tmp_path)
    print(game)
    assert game.tally["fail points"] >= 2
    assert len(game.dss.ledger.runs) > 50
