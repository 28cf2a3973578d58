"""The schema's history (Alembic). Run by `store.migrate`, never by hand."""
