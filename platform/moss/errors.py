"""Every error this project raises on purpose.

    MossError
    ├── ConfigError (ValueError)            a config file, key or value a user wrote
    ├── DataError (ValueError)              a row, file or text that is not what its reader needs
    │   ├── ChatFormatError                 text that is not a rendered conversation
    │   └── ShapeError                      tensors whose shapes disagree
    ├── StorageError (OSError)              a file that cannot be written or read whole
    │   ├── ManifestError                   outputs that a manifest names are absent or altered
    │   └── LeaseError                      another controller owns this run
    ├── TeacherError                        a call to the LLM endpoint that ended without an answer
    │   ├── TeacherUnavailableError (ConnectionError)
    │   ├── TeacherAuthError (PermissionError)
    │   ├── TeacherQuotaError               the account's quota is used up
    │   │   └── BudgetError                 our own cap is reached; raise it and run again
    │   └── TeacherResponseError            the answer is not what the step needs
    ├── ResourceError                       the cluster lacks what the config asks for
    │   └── ActorLostError                  an actor died, and with it what it held
    │       └── EngineSleepError            a rollout engine that did not fall asleep or wake up
    ├── LayoutError (ImportError)           moss, actors and jobs come from different trees
    ├── WaitTimeoutError (TimeoutError)     a bounded wait ran out
    ├── TrainingStoppedError                a monitor stopped a run that has no good checkpoint yet
    ├── WeightSyncError                     pushed weights did not arrive whole
    └── RewardError (ConnectionError)       a reward that no row of the run can get

Each message says what came, what was expected and what to do. Errors hold one string only, so they
survive pickling across processes.
"""


class MossError(Exception):
    """Root of the tree."""


class ConfigError(MossError, ValueError):
    """A config file, key or value is wrong."""


class DataError(MossError, ValueError):
    """A row, file or text is not what its reader needs."""


class ChatFormatError(DataError):
    """Text is not a rendered conversation."""


class ShapeError(DataError):
    """Tensor shapes disagree."""


class StorageError(MossError, OSError):
    """A file cannot be written or read whole."""


class ManifestError(StorageError):
    """Outputs that a manifest names are absent or altered."""


class LeaseError(StorageError):
    """Another controller owns this run."""


class TeacherError(MossError):
    """A call to the LLM endpoint ended without an answer."""


class TeacherUnavailableError(TeacherError, ConnectionError):
    """The endpoint does not answer."""


class TeacherAuthError(TeacherError, PermissionError):
    """The endpoint refused the key."""


class TeacherQuotaError(TeacherError):
    """The account's quota is used up."""


class BudgetError(TeacherQuotaError):
    """The run's own cap on tokens or money is reached; raising it and running again goes on."""


class TeacherResponseError(TeacherError):
    """The answer is not what the step needs."""


class ResourceError(MossError):
    """The cluster lacks what the config asks for."""


class ActorLostError(ResourceError):
    """An actor died, and with it what it held."""


class EngineSleepError(ActorLostError):
    """A rollout engine did not fall asleep or wake up; its actor is of no further use."""


class LayoutError(MossError, ImportError):
    """`moss`, `actors` and `jobs` were loaded from different trees."""


class WaitTimeoutError(MossError, TimeoutError):
    """A bounded wait ran out."""


class TrainingStoppedError(MossError):
    """A monitor stopped a run before it had a checkpoint within the limits."""


class WeightSyncError(MossError):
    """Pushed weights did not arrive whole."""


class RewardError(MossError, ConnectionError):
    """A reward refuses every row, and no retry can cure it."""
