"""The scenario API of Dataiku DSS, async; a library in its own right that needs nothing else of Tocsin but kit."""

from tocsin.dss.client import DSSClient, DSSInstanceInfo
from tocsin.dss.errors import (
    DSSConflict,
    DSSError,
    DSSForbidden,
    DSSInvalidReply,
    DSSNotFound,
    DSSRefused,
    DSSRunCancelled,
    DSSRunFailed,
    DSSServerError,
    DSSThrottled,
    DSSUnauthorized,
    DSSUnreachable,
    DSSWaitTimeout,
)
from tocsin.dss.job import DSSJob, DSSJobListItem
from tocsin.dss.project import DSSProject, DSSProjectSettings, DSSTestingStatus
from tocsin.dss.run import DSSScenarioRun, DSSScenarioRunDetails, DSSStepRunDetails
from tocsin.dss.scenario import DSSScenario, DSSScenarioListItem, DSSScenarioStatus
from tocsin.dss.transport import RequestReport, Transport

__all__ = [
    "DSSClient",
    "DSSConflict",
    "DSSError",
    "DSSForbidden",
    "DSSInstanceInfo",
    "DSSInvalidReply",
    "DSSJob",
    "DSSJobListItem",
    "DSSNotFound",
    "DSSProject",
    "DSSProjectSettings",
    "DSSRefused",
    "DSSRunCancelled",
    "DSSRunFailed",
    "DSSScenario",
    "DSSScenarioListItem",
    "DSSScenarioRun",
    "DSSScenarioRunDetails",
    "DSSScenarioStatus",
    "DSSServerError",
    "DSSStepRunDetails",
    "DSSTestingStatus",
    "DSSThrottled",
    "DSSUnauthorized",
    "DSSUnreachable",
    "DSSWaitTimeout",
    "RequestReport",
    "Transport",
]
