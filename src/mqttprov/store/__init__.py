"""Where facts live: the `Store` protocol and its SQLite form. No rules here; they are in `mqttprov.core`."""
