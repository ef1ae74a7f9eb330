"""What a piece of torch code really takes: the memory of its tensors, counted as they come and go.

Every new storage is counted when an operator returns it, and taken off when nothing holds it any
more: on CPU that is what an allocator without gaps would hold. It works with fake tensors, too,
which have sizes but no memory, so that a step of a 7B model can be measured on any machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):  # type: ignore[misc]  # torch is Any here
    """A context that counts bytes.

    Args:
        resizing: storages may change their size, as FSDP2's do: slower.

    Attributes:
        now: bytes held.
        peak: most bytes held since it was last set to 0.
    """

    def __init__(self, held: Iterable[torch.Tensor], *, resizing: bool = False) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._storages: dict[int, weakref.ref[Any]] = {}
        self._resizing = resizing
        self._held = self.peak = 0
        for tensor in held:
            self._add(tensor)

    @property
    def now(self) -> int:
        if not self._resizing:
            return self._held
        found = [reference() for reference in list(self._storages.values())]
        return sum(storage.nbytes() for storage in found if storage is not None)

    def _add(self, tensor: Any) -> None:
        storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
        key: int = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._held += storage.nbytes()
            self._storages[key] = weakref.ref(storage, lambda _: self._drop(key))

    def _drop(self, key: int) -> None:
        self._held -= self._sizes.pop(key)
        del self._storages[key]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        self.peak = max(self.peak, self.now)
        return found


@contextmanager
def saved_for_backward(model: Any) -> Iterator[dict[int, int]]:
    """Storages that autograd saves in this block -> their bytes; parameters and buffers apart."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
