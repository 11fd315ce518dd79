"""The scenario API of Dataiku DSS, async; a library in its own right that needs nothing else of Tocsin but kit."""

from tocsin.dss.client import DSSClient, DSSInstanceInfo
from tocsin.dss.discussion import DSSDiscussion, DSSDiscussionReply, DSSObjectDiscussions
from tocsin.dss.errors import (
    DSSConflict,
    DSSError,
    DSSForbidden,
    DSSInvalidReply,
    DSSNotFound,
    DSSRefused,
    DSSReplyTooLarge,
    DSSRunCancelled,
    DSSRunFailed,
    DSSServerError,
    DSSThrottled,
    DSSUnauthorized,
    DSSUnreachable,
    DSSWaitTimeout,
)
from tocsin.dss.future import DSSFuture
from tocsin.dss.job import DSSJob, DSSJobListItem
from tocsin.dss.messaging import DSSMessagingChannel
from tocsin.dss.project import DSSProject, DSSProjectSettings, DSSTestingStatus
from tocsin.dss.run import DSSScenarioRun, DSSScenarioRunDetails, DSSStepRunDetails
from tocsin.dss.scenario import DSSScenario, DSSScenarioListItem, DSSScenarioStatus
from tocsin.dss.settings import DSSScenarioSettings, PythonScriptBasedScenarioSettings, StepBasedScenarioSettings
from tocsin.dss.trigger import DSSScenarioRunWaiter, DSSTriggerFire
from tocsin.dss.wire import RequestReport

__all__ = [
    "DSSClient",
    "DSSConflict",
    "DSSDiscussion",
    "DSSDiscussionReply",
    "DSSError",
    "DSSForbidden",
    "DSSFuture",
    "DSSInstanceInfo",
    "DSSInvalidReply",
    "DSSJob",
    "DSSJobListItem",
    "DSSMessagingChannel",
    "DSSNotFound",
    "DSSObjectDiscussions",
    "DSSProject",
    "DSSProjectSettings",
    "DSSRefused",
    "DSSReplyTooLarge",
    "DSSRunCancelled",
    "DSSRunFailed",
    "DSSScenario",
    "DSSScenarioListItem",
    "DSSScenarioRun",
    "DSSScenarioRunDetails",
    "DSSScenarioRunWaiter",
    "DSSScenarioSettings",
    "DSSScenarioStatus",
    "DSSServerError",
    "DSSStepRunDetails",
    "DSSTestingStatus",
    "DSSThrottled",
    "DSSTriggerFire",
    "DSSUnauthorized",
    "DSSUnreachable",
    "DSSWaitTimeout",
    "PythonScriptBasedScenarioSettings",
    "RequestReport",
    "StepBasedScenarioSettings",
]
