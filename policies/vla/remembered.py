"""Embeddings that are not computed twice while the weights stay: of words, and of images that are shown again."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
import xxhash
from torch import Tensor

Embed = Callable[[Tensor], Tensor]
_PROMPTS = 64
_IMAGES = 256


class KnownWords:
    """Words' embeddings by the tensor that the tokens are: `Prompts` gives the same one for the same words."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, tokens: Tensor) -> Tensor:
        known = self._known.get(id(tokens))
        if known is None:
            if len(self._known) == _PROMPTS:
                self.forget()
            # With the tokens, so that no other tensor gets their id.
            known = self._known[id(tokens)] = tokens, self._embed(tokens)
        return known[1]

    def forget(self) -> None:
        """The weights are others now."""
        self._known.clear()


class KnownImages:
    """Images' embeddings by what is in them, those of the last few hundred."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self.computed = 0
        """Images that were not known."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w), all calls' of one size."""
        keys = [xxhash.xxh3_128_digest(np.ascontiguousarray(image)) for image in images.cpu().numpy()]
        new = {key: index for index, key in enumerate(keys) if key not in self._known}
        if new:
            self.computed += len(new)
            embedded = self._embed(images if len(new) == len(images) else images[list(new.values())])
            self._known.update(zip(new, embedded.clone().unbind(), strict=True))
        for key in keys:
            self._known.move_to_end(key)
        found = torch.stack([self._known[key] for key in keys])
        while len(self._known) > _IMAGES:
            self._known.popitem(last=False)
        return found

    def forget(self) -> None:
        """The weights are others now."""
        self._known.clear()
