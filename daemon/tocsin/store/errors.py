"""What can go wrong with the store.

StoreError
├── StoreUnavailable    busy, full, read-only, disconnected: the stage pauses and tries again
│   └── StoreFailed     damaged, or its writer is gone: the process ends with one line
├── StoreRefused        cannot be opened: the process ends with one line
└── NotLeader           another process leads now: the write did not happen
"""


class StoreError(Exception):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be written or read just now; nothing was changed, and a later try may work."""


class StoreFailed(StoreUnavailable):
    """The store cannot be used any more by this process; the message says why. Callers that pause need not tell it
    apart: ``Store.watch`` ends the process."""


class StoreRefused(StoreError):
    """The store cannot be opened; the message says why and what to do."""


class NotLeader(StoreError):
    """This process no longer holds the leader lease; the transaction was not carried out."""
