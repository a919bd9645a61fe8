"""Depthwise convolutions as JAX primitives: their derivatives, their batching and their partitioning."""
