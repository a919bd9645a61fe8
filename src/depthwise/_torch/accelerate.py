"""Making the depthwise layers of a model run on the engine, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from .arrays import check_tensor
from .modules import ACTIVATIONS, FoldedConv2d, Fusion, put_back, replace


@dataclass(frozen=True)
class Entry:
    """What became of one convolution.

    Attributes
    ----------
    name : str
        As in `model.named_modules()`.
    replaced : bool
        Whether it runs on the engine now.
    fused : tuple of str
        The modules after it whose work it does in eval mode.
    reason : str
        Why it was left, or why nothing was fused; empty if there is nothing to explain.
    """

    name: str
    replaced: bool
    fused: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """What `accelerate` did with each convolution; printing it gives a table."""

    entries: tuple[Entry, ...]

    @property
    def replaced(self) -> tuple[Entry, ...]:
        """The convolutions that run on the engine now."""
        return tuple(entry for entry in self.entries if entry.replaced)

    @property
    def left(self) -> tuple[Entry, ...]:
        """The convolutions that stayed as they were, each with the reason."""
        return tuple(entry for entry in self.entries if not entry.replaced)

    def __str__(self) -> str:
        heading = f"{len(self.replaced)} of {len(self.entries)} convolutions replaced"
        width = max((len(entry.name) for entry in self.entries), default=0)
        return "\n".join([heading, *(f"  {entry.name:{width}}  {_outcome(entry)}" for entry in self.entries)])


def accelerate(model: nn.Module, *, fuse: bool = False) -> Report:
    """Make every depthwise `torch.nn.Conv2d` of a model run on the engine, in place.

    The modules stay the same objects with the same parameters and hooks, so optimizers and the keys of
    `state_dict` are not affected; training works as before. A module is replaced if it is a `Conv2d` (and no
    subclass) with as many groups as input channels, and more than one. `restore` undoes it.

    Parameters
    ----------
    model : torch.nn.Module
        Its depthwise convolutions must be on the CPU. If it was accelerated before, that is undone first.
    fuse : bool
        Let a convolution also do, in eval mode, the work of a `BatchNorm2d` and of a `ReLU`, `ReLU6`, `SiLU`
        or `Hardswish` that follow it in a `torch.nn.Sequential`, where none of them has hooks or is used
        twice. Other convolutions before a `BatchNorm2d` stay PyTorch's own, and do the same work. Folded
        filters are made again when a parameter or a running statistic changed; assignments through
        ``.data`` into the same memory do not count as changes. In train mode every module does its own work.

    Returns
    -------
    Report
        What was replaced and fused, what was left, and why.

    Raises
    ------
    TypeError
        If `model` is no module.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 1),
    ...     torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
    ...     torch.nn.BatchNorm2d(8),
    ...     torch.nn.ReLU(),
    ... ).eval()
    >>> print(accelerate(model, fuse=True))
    1 of 2 convolutions replaced
      0  left: not depthwise, 1 group for 3 input channels
      1  replaced, with 2, 3
    >>> model(torch.ones(1, 3, 4, 4)).shape
    torch.Size([1, 8, 4, 4])
    >>> restore(model)
    1
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    restore(model)
    names = {module: name for name, module in model.named_modules()}
    followers = dict(_followers(model)) if fuse else {}
    entries = []
    for module, name in names.items():
        if isinstance(module, nn.Conv2d):
            reason, after = _reason_to_leave(module), followers.get(module, ())
            if not reason:
                entries.append(_accelerate_one(module, name, after, names, fuse))
            else:
                entries.append(Entry(name, False, _fold(module, after, names), reason))
    return Report(tuple(entries))


def restore(model: nn.Module) -> int:
    """Undo `accelerate`: give every module its original class back.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    int
        How many convolutions were restored.
    """
    return sum(put_back(module) and isinstance(module, nn.Conv2d) for module in model.modules())


def _accelerate_one(
    module: nn.Conv2d,
    name: str,
    followers: tuple[nn.Module, ...],
    names: dict[nn.Module, str],
    fuse: bool,
) -> Entry:
    fusion = _fusion(module, followers) if followers else None
    for one in (module, *followers):
        replace(one, fusion)
    reason = "no plain BatchNorm2d or activation after it in a Sequential" if fuse and not followers else ""
    return Entry(name, True, tuple(names[one] for one in followers), reason)


def _fold(
    module: nn.Conv2d, followers: tuple[nn.Module, ...], names: dict[nn.Module, str]
) -> tuple[str, ...]:
    """Let a convolution that stays PyTorch's own do the work of what follows it; the names of that."""
    if not any(isinstance(one, nn.BatchNorm2d) for one in followers):
        return ()  # an activation alone would gain nothing
    fusion = _fusion(module, followers)
    replace(module, fusion, FoldedConv2d)
    for one in followers:
        replace(one, fusion)
    return tuple(names[one] for one in followers)


def _fusion(module: nn.Conv2d, followers: tuple[nn.Module, ...]) -> Fusion:
    norm = next((one for one in followers if isinstance(one, nn.BatchNorm2d)), None)
    activation = next((one for one in followers if type(one) in ACTIVATIONS), None)
    return Fusion(module, norm, activation)


def _reason_to_leave(module: nn.Conv2d) -> str:
    groups = f"{module.groups} group{'s' * (module.groups != 1)} for {module.in_channels} input channels"
    if module.groups != module.in_channels:
        return f"not depthwise, {groups}"
    if module.groups == 1:
        return "not depthwise, a single channel"
    if type(module) is not nn.Conv2d:
        return f"a subclass of Conv2d, {type(module).__name__}"
    try:
        check_tensor("weight", module.weight)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _followers(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[nn.Module, ...]]]:
    """Convolutions in a Sequential with the modules after them that they can do the work of."""
    uses = Counter(child for module in model.modules() for child in module._modules.values())
    for module in model.modules():
        if type(module).forward is not nn.Sequential.forward:
            continue
        children = list(module)
        for position, child in enumerate(children):
            if type(child) is nn.Conv2d and uses[child] == 1 and not _has_hooks(child):
                after = [
                    one if uses[one] == 1 and not _has_hooks(one) else None
                    for one in children[position + 1 :]
                ]
                yield child, tuple(_joinable(child, after))


def _joinable(convolution: nn.Conv2d, after: list[Any]) -> Iterator[nn.Module]:
    """The first one or two modules after a convolution; None stands for one that must not be joined."""
    if after and type(after[0]) is nn.BatchNorm2d:
        norm = after.pop(0)
        if norm.running_mean is None or norm.num_features != convolution.out_channels:
            return
        yield norm
    if after and type(after[0]) in ACTIVATIONS:
        yield after[0]


def _has_hooks(module: nn.Module) -> bool:
    return any(
        (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    )


def _outcome(entry: Entry) -> str:
    fused = f", with {', '.join(entry.fused)}" if entry.fused else ""
    if not entry.replaced:
        return f"left: {entry.reason}{fused and '; PyTorch computes it' + fused}"
    return f"replaced{fused}" + (f"; nothing fused: {entry.reason}" if entry.reason else "")
