"""The contenders: ours and the other libraries, one small module each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from .base import Peer, UnsupportedError

__all__ = ["OURS", "PEERS", "Peer", "PeerInfo", "UnsupportedError", "load_peer"]


@dataclass(frozen=True)
class PeerInfo:
    """Where a contender lives.

    Attributes
    ----------
    title : str
        How tables and plots name it.
    module, cls : str
        The module in this package, and the class in it.
    requirements : tuple of str
        Distributions that its interpreter must have; the first one's version is reported.
    environment : str
        The environment of ``depthwise bench setup`` that holds it; empty for the one that runs the benchmark.
    """

    title: str
    module: str
    cls: str
    requirements: tuple[str, ...]
    environment: str = ""


PEERS: dict[str, PeerInfo] = {
    "depthwise": PeerInfo("depthwise", "ours", "Call", ("depthwise",)),
    "prepared": PeerInfo("depthwise.Conv2D", "ours", "Prepared", ("depthwise",)),
    "torch": PeerInfo("PyTorch", "pytorch", "PyTorch", ("torch",), "peers"),
    "tensorflow": PeerInfo("TensorFlow", "tensorflow", "TensorFlow", ("tensorflow",), "tensorflow"),
    "litert": PeerInfo(
        "LiteRT (XNNPACK)", "litert", "LiteRT", ("ai-edge-litert", "tensorflow"), "tensorflow"
    ),
    "onnxruntime": PeerInfo("ONNX Runtime", "onnxruntime", "OnnxRuntime", ("onnxruntime", "onnx"), "peers"),
    "openvino": PeerInfo("OpenVINO", "openvino", "OpenVino", ("openvino",), "peers"),
    "jax": PeerInfo("JAX", "jax", "Jax", ("jax",), "peers"),
    "opencv": PeerInfo("OpenCV", "opencv", "OpenCV", ("opencv-python-headless",), "peers"),
}

#: The contenders that are ours; the first one is the headline, called as users call it.
OURS = ("depthwise", "prepared")


def load_peer(name: str, threads: int) -> Peer:
    """Import the peer and configure it for that many threads; once for each process."""
    info = PEERS[name]
    peer_class = getattr(import_module(f".{info.module}", __name__), info.cls)
    peer: Peer = peer_class(threads)
    return peer
