"""Turn a provision key and secret into a device identity over MQTT.

The parts and what may import what are in ARCHITECTURE.md; `tests/test_architecture.py` holds the code to it.
"""

__version__ = "0.1.0"
