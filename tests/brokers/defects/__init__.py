"""Scenarios in which stock amqtt 0.12.1 fails, told in raw bytes so that any broker can be put through them.

Each scenario takes a `wire.Broker` (where it listens, and logins) and returns what it observed. What ought to be seen
is said by who calls it: here for the embedded broker.
"""
