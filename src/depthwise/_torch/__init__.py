"""The PyTorch adapter, behind `depthwise.torch` and behind the public functions when tensors arrive.

`arrays` reads tensors in place; `kernels` runs them on the engine and infers shapes; `operators` registers
that with PyTorch and adds autograd, vmap and autocast; `functions` and `functional` are the signatures of
`depthwise` and of `torch.nn.functional`; `modules` and `accelerate` serve whole models.
"""
