"""Conversations, prompts with consent, and feedback, in SQL: SQLite by default, or Postgres.

Every turn keeps who asked (a hash), when, under which model version and with which consent; a turn
is used for training only if its own consent says so (`moss.served_prompts`, which `collect_prompts`
reads). What a user deletes leaves the database's files, and a digest that keeps it out of exports.
"""

from serve.store.records import CONSENT_VERSION as CONSENT_VERSION
from serve.store.records import CONSENTS as CONSENTS
from serve.store.records import Consent as Consent
from serve.store.records import ConsentRecord as ConsentRecord
from serve.store.records import ConversationSummary as ConversationSummary
from serve.store.records import Deleted as Deleted
from serve.store.records import NotStoredError as NotStoredError
from serve.store.records import StoredTurn as StoredTurn
from serve.store.records import StoreUnavailableError as StoreUnavailableError
from serve.store.store import Store as Store
