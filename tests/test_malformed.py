"""Random malformed calls: each is answered by ValueError, TypeError or MemoryError, or by a result.

They run in a process of their own whose memory is limited, so that an absurd allocation fails there and
does not hurt the machine. `DEPTHWISE_HYPOTHESIS_PROFILE=ci` makes ten thousand calls.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SEED
from hypothesis import settings


@pytest.mark.parametrize("part", range(4))
def test_random_calls_are_answered(part):
    count = 2500 if settings.get_current_profile_name() == "ci" else 250
    command = [sys.executable, Path(__file__).with_name("malformed_calls.py"), str(count), str(SEED + part)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert done.stdout.split()[0] == str(count)
    assert "'result'" in done.stdout  # some calls are well formed
