"""A program for test_jax.py: convolutions spread over four CPU devices; prints what it found as JSON.

Whether shards are gathered is read off the compiled program: it would name the collective operation.
"""

import json
import os
import re

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import depthwise

RNG = np.random.default_rng(0)
X, FILTER = RNG.standard_normal((8, 12, 8, 6), np.float32), RNG.standard_normal((3, 3, 6, 2), np.float32)
BIAS, GRAD = RNG.standard_normal(12, np.float32), RNG.standard_normal((8, 6, 4, 12), np.float32)
SPREADS = {  # the axes of the mesh, and how x, the filter, the bias and the output are spread
    "batch": ({"data": 4}, P("data"), P(), P(), P("data")),
    "channels": ({"data": 2, "model": 2}, *(P(*(None,) * n, "model") for n in (3, 2, 0, 3))),
    "both": ({"data": 2, "model": 2}, P("data", None, None, "model"), P(None, None, "model"), P("model"),
             P("data", None, None, "model")),
}  # fmt: skip


def convolve(x, filter):
    return depthwise.conv2d(x, filter, stride=2)


def layer(x, filter, bias):
    return depthwise.conv2d(x, filter, bias=bias, activation="relu", stride=2)


def gradients(x, filter, grad):
    return jax.vjp(convolve, x, filter)[1](grad)


EXPECTED = depthwise.conv2d(X, FILTER, bias=BIAS, activation="relu", stride=2)
EXPECTED_X = depthwise.conv2d_grad_input(X.shape, FILTER, GRAD, stride=2)
EXPECTED_FILTER = depthwise.conv2d_grad_filter(X, FILTER.shape, GRAD, stride=2)


def collectives(compiled):
    return sorted(set(re.findall(r"\b(all-\w+|collective-\w+|reduce-scatter)\(", compiled.as_text())))


def same_gradients(grad_x, grad_filter):
    """Equal; but the filter's is a sum whose order depends on the shards."""
    close = np.allclose(grad_filter, EXPECTED_FILTER, rtol=1e-5, atol=1e-4)
    return bool(np.array_equal(grad_x, EXPECTED_X) and close)


def spread_over(kind, axes, of_x, of_filter, of_bias, of_output):
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes))

    def put(array, spec):
        return jax.device_put(array, NamedSharding(mesh, spec))

    x, filter, grad = put(X, of_x), put(FILTER, of_filter), put(GRAD, of_output)
    bias = put(BIAS, of_bias)
    forward = jax.jit(layer).lower(x, filter, bias).compile()
    backward = jax.jit(gradients).lower(x, filter, grad).compile()
    y = forward(x, filter, bias)
    return {
        "forward collectives": collectives(forward),
        "gradient collectives": collectives(backward),
        "equal": bool(np.array_equal(y, EXPECTED)) and same_gradients(*backward(x, filter, grad)),
    }


def mapped_by_shard(under_jit):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    body = jax.shard_map(convolve, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    body = jax.jit(body) if under_jit else body
    y, pull = jax.vjp(body, X, FILTER)
    return {
        "equal": bool(np.array_equal(y, depthwise.conv2d(X, FILTER, stride=2)))
        and same_gradients(*pull(GRAD))
    }


def in_ambient_mesh():
    with jax.set_mesh(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))):
        x = jax.device_put(X, P("data"))
        return {
            "equal": bool(
                np.array_equal(layer(x, jax.numpy.asarray(FILTER), jax.numpy.asarray(BIAS)), EXPECTED)
            )
        }


def main():
    report = {}
    for name, kind in (("auto", AxisType.Auto), ("explicit", AxisType.Explicit)):
        for spread, arguments in SPREADS.items():
            report[f"{name} {spread}"] = spread_over(kind, *arguments)
    three = jax.sharding.PartitionSpec(None, "data")
    report["rows"] = spread_over(AxisType.Auto, {"data": 4}, three, P(), P(), P())
    uneven = P(None, None, None, "data")  # 12 output channels divide by 4, but the 6 input channels do not
    report["uneven channels"] = spread_over(AxisType.Auto, {"data": 4}, P(), P(), P("data"), uneven)
    report["shard_map"], report["shard_map under jit"] = mapped_by_shard(False), mapped_by_shard(True)
    report["set_mesh"] = in_ambient_mesh()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
