"""The device side: a gateway that turns key and secret into an identity and stays online with it (P10).

`machine` (with `events`, `actions`, `replies`, `requests`, `backoff`) is pure and light, so the simulator imports those
modules directly; `client` adds paho-mqtt, files and the clock.
"""
