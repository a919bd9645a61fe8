"""The benchmark: layers of published networks, timed beside other libraries and the roofline.

``depthwise bench`` is the entry point. What runs inside a peer's process (`worker`, `protocol`, `problem`,
`peers`) imports nothing of ``depthwise`` itself: the interpreter of a second environment can load it where
``depthwise`` is not installed.
"""
