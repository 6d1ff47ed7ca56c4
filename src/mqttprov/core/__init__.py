"""The rules of provisioning, pure: model, lifecycle, decision, names, secrets, permissions, audit chain.

Nothing here does I/O or knows a clock, randomness, threads or asyncio: `now_ms` and entropy come in as arguments and
what shall happen goes out as values.
"""
