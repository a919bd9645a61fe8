"""Depthwise convolutions of chunked arrays: which parts each block needs, and the graph that computes it."""
