"""DSS's own mail reporters, as they stand in a scenario's definition.

Whoever may edit a project writes them: their texts and addresses are data of strangers, kept as they came.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MailReporter:
    """One active mail reporter of a scenario. Addresses and texts may hold DSS's ``${variables}``."""

    id: str
    name: str
    phase: Literal["START", "END"] = "END"
    condition: str | None = None  # None: at every run
    sender: str = ""
    recipient: str = ""  # a comma list, a JSON array, or {"mails": [{"to", "variables"}]}
    cc: str = ""
    bcc: str = ""
    subject: str = ""
    message: str = ""  # inline; empty: a template file
    template: str = ""  # the name of a template file of DSS
    freemarker: bool = True  # the message is a FreeMarker template; else DSS's formula language
    html: bool = False
    attachments: tuple[str, ...] = ()  # kinds: LOG, DATASET…
