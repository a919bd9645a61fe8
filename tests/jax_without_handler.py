"""A program for test_jax.py: JAX with a native module that lacks the handler."""

import jax
import jax.numpy as jnp
import numpy as np

import depthwise
from depthwise import _native

del _native.xla_handler

rng = np.random.default_rng(0)
x, filter = rng.standard_normal((2, 6, 5, 4), np.float32), rng.standard_normal((3, 3, 4, 2), np.float32)
grad = rng.standard_normal((2, 6, 5, 8), np.float32)
run = jax.jit(lambda x, filter: depthwise.conv2d(x, filter, activation="relu"))
assert "callback" in run.lower(jnp.asarray(x), jnp.asarray(filter)).as_text()
actual = run(jnp.asarray(x), jnp.asarray(filter))
np.testing.assert_array_equal(actual, depthwise.conv2d(x, filter, activation="relu"))
_, pull = jax.vjp(depthwise.conv2d, jnp.asarray(x), jnp.asarray(filter))
grad_x, grad_filter = pull(jnp.asarray(grad))
np.testing.assert_array_equal(grad_x, depthwise.conv2d_grad_input(x.shape, filter, grad))
np.testing.assert_array_equal(grad_filter, depthwise.conv2d_grad_filter(x, filter.shape, grad))
assert depthwise.show_config("dict")["jax"] == "pure_callback: the XLA FFI handler was not built"
