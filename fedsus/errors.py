"""Every named error of fedsus, and what a user sees of it.

FedsusError
├── UserError                bad input: one clear line, exit code 2
│   ├── ConfigError          a file or option: names field, value and allowed range
│   ├── DataError            the owner's data do not fit the task
│   └── EnvironmentFault     port taken, disk full, certificate expired, server down
├── Refusal                  the device's owner does not allow it; the reason stays on the device
│   └── BudgetExhausted      the privacy budget of a data set does not cover it
├── ProtocolViolation        a message that does not follow the protocol
├── CohortTooSmall           too few survivors: the attempt is abandoned, nothing is released
├── CorruptionError          a journal, checkpoint or ledger that was changed or broken: never repaired
├── ReceiptFault             a receipt that does not hold: names the first thing that does not
├── Cancelled                stop() said so: a deadline passed or the process is ending
└── RunFailed                no attempts are left, or the run cannot go on
"""


class FedsusError(Exception):
    """Base of all errors that fedsus raises on purpose; the message is one line for a person."""


class UserError(FedsusError):
    """The user can mend it: exit code 2, one line, no traceback."""


class ConfigError(UserError):
    """A configuration file or an option is wrong."""


class DataError(UserError):
    """The owner's data do not fit the task."""


class EnvironmentFault(UserError):
    """The machine or the network is not as needed."""


class Refusal(FedsusError):
    """The owner's policy does not allow what the plan asks. The text never crosses the wire."""


class BudgetExhausted(Refusal):
    """The data set's privacy cap does not cover what the plan would spend."""


class ProtocolViolation(FedsusError):
    """A message is malformed, oversized, out of order or of another version."""


class CohortTooSmall(FedsusError):
    """Fewer survivors than the plan's minimum; nothing was released."""


class CorruptionError(FedsusError):
    """Stored state does not match its own hash; it is refused, never repaired."""


class ReceiptFault(FedsusError):
    """A receipt says something that its signatures, journal, roster or model do not."""


class Cancelled(FedsusError):
    """Work was stopped before it was complete; nothing of it may be released."""


class RunFailed(FedsusError):
    """The run ended without its last round."""
