"""Hypothesis profiles, seeds, and what every test module shares."""

import importlib.util
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=300, **_COMMON)
settings.register_profile("ci", max_examples=5000, **_COMMON)
settings.load_profile(os.environ.get("DEPTHWISE_HYPOTHESIS_PROFILE", "default"))

# Keras takes its backend from here when it is first imported; by itself it would ask for TensorFlow.
_BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", (_BACKENDS or ["tensorflow"])[0])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's remarks about the machine

SEED = int(os.environ.get("DEPTHWISE_TEST_SEED", "20240607"))


def pytest_report_header():
    profile = settings.get_current_profile_name()
    return f"depthwise: DEPTHWISE_TEST_SEED={SEED} DEPTHWISE_HYPOTHESIS_PROFILE={profile}"


@pytest.fixture
def rng():
    """Random numbers that are the same in every run of a test; the report's header names the seed."""
    return np.random.default_rng(SEED)


@pytest.fixture(scope="module")
def jax_with_float64():
    """JAX with its 64-bit types for the tests of one module; what runs after them has JAX's defaults."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
