"""What any version of the official client must be able to do; run as a script: ``contract.py URL KEY``."""

import sys
import time
import warnings

import dataikuapi
import pytest

_really_sleep = time.sleep
time.sleep = lambda seconds: _really_sleep(min(float(seconds), 0.05))  # 12.6 polls every five seconds
warnings.simplefilter("ignore")


def main(url, key):
    client = dataikuapi.DSSClient(url, key)
    assert client.list_project_keys() == ["SALES", "EMPTY"]
    assert client.get_auth_info()["authIdentifier"] == "admin"
    project = client.get_project("SALES")
    assert [item["id"] for item in project.list_scenarios()] == ["NIGHTLY", "SCRIPT", "AFTER"]
    scenario = project.get_scenario("NIGHTLY")
    assert scenario.get_status().next_run is not None
    settings = scenario.get_settings()
    settings.add_daily_trigger(hour=4)
    settings.save()
    assert len(scenario.get_settings().raw_triggers) == 2
    run = scenario.run_and_wait(no_fail=True)
    assert run.outcome == "FAILED"
    details = run.get_details()
    assert details.first_error_details["message"] == "Out of memory"
    job = project.get_job(details.steps[1].job_ids[0])
    assert job.get_status()["baseStatus"]["state"] == "FAILED"
    fire = scenario.run({"a": 1})
    current = fire.wait_for_scenario_run()
    assert current.running
    assert client.list_running_scenarios(all_users=True)
    scenario.abort()
    while current.running:
        time.sleep(0.05)
        current.refresh()
    assert current.outcome == "ABORTED"
    assert scenario.get_last_runs(limit=2)[1].id == run.id
    assert scenario.get_average_duration() > 0
    assert scenario.get_last_finished_run().id == current.id
    created = project.create_scenario("Mine", "custom_python")
    code = created.get_settings()
    code.code = "print(1)"
    code.save()
    assert created.get_settings().code == "print(1)"
    assert created.run_and_wait().outcome == "SUCCESS"
    created.delete()
    discussions = scenario.get_object_discussions()
    discussions.create_discussion("t", "m").add_reply("r")
    assert len(discussions.list_discussions()[0].get_replies()) == 2
    project.update_variables({"x": 1})
    with pytest.raises(dataikuapi.utils.DataikuException, match="NotFoundException: scenario does not exist"):
        created.get_settings()
    print("kept", dataikuapi.__file__)


if __name__ == "__main__":
    main(*sys.argv[1:])
