"""Run by Alembic; `serve.store.migrate` opens the connection, its transaction and the lock."""

from alembic import context

from serve.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite has transactional DDL too, once the driver is kept from ending transactions by itself.
    transactional_ddl=True,
)
context.run_migrations()
