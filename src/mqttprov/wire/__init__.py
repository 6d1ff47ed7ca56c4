"""Dialects: bytes <-> requests and outcomes of `mqttprov.core`, one pure module per dialect. No rules, no I/O."""
