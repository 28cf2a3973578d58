"""Backups of a controller: an encrypted file of its keys, settings and database, and the ways back."""
