"""Alembic's folder of the chat store: `env.py` and one module per revision in `versions/`.

To change the schema, change `serve.store.tables`, and add `versions/v0003_<what>.py` whose
`down_revision` is the last one; it must run on SQLite and Postgres, up and down, on filled tables.
"""
