"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# The first text strategy on a fresh machine builds its Unicode tables for seconds, which says nothing about a test.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
