"""What holds for all tests."""

import os
import shutil
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

# The first text strategy on a fresh machine builds its Unicode tables for seconds, which says nothing about a test.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(scope="session")
def need() -> Callable[[str], None]:
    """Let a test say which program it needs: without it it is skipped, and fails where CI is set."""

    def check(program: str) -> None:
        # Servers of Debian are not in the PATH of its ordinary users.
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            reason = f"{program} is not installed; run as root: apt-get install {program}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)

    return check
