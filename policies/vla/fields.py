"""The velocity fields of LeRobot's flow VLAs: the vision-language model looks once, then the action expert walks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from lerobot.policies.common.vla_utils import clone_past_key_values, make_att_2d_masks, prepare_attention_masks_4d
from lerobot.policies.pi_gemma import PiGemmaRMSNorm
from torch import Tensor, nn

from policies.vla.remembered import KnownImages, KnownWords


class Prefix(NamedTuple):
    """What the vision-language model makes of B observations.

    mask: (B, L) bool, which of its tokens count.
    cache: keys and values of every layer, a `DynamicCache` of transformers.
    state: (B, S) as the expert takes it.
    features: (B, W) float32, the mean of its last layer over the tokens that count.
    """

    mask: Tensor
    cache: Any
    state: Tensor
    features: Tensor

    def repeated(self, count: int) -> "Prefix":
        """Each observation `count` times, one after the other; with gradient."""
        if count == 1:
            return self
        cache = clone_past_key_values(self.cache)
        cache.batch_repeat_interleave(count)
        parts = (part.repeat_interleave(count, 0) for part in (self.mask, self.state, self.features))
        mask, state, features = parts
        return Prefix(mask, cache, state, features)


class Field(ABC):
    """v(x, t, s) of one architecture; `policy` is LeRobot's own object, with its weights."""

    same_words = True
    """Whether an instruction makes the same prompt each time."""

    def __init__(self, policy: nn.Module) -> None:
        self.policy: Any = policy
        self.model: Any = policy.model
        self._known: list[KnownWords | KnownImages] = []
        self._compiled: dict[str, Callable[..., Any]] = {}

    def serve(self, *, compiled: bool, images_again: bool) -> None:
        """No gradient of weights from now on, and `renewed` whenever they were changed.

        compiled: what takes the time is compiled on its first calls, once for a single observation and once for
        several, however many. images_again: one and the same image may be shown more than once.
        """
        self.policy.requires_grad_(False)
        both = self._both
        if compiled:
            self._compiled = {name: _compile(getattr(self, name)) for name in ("_read", "_velocity")}
            both.embed_image = _compile(both.embed_image)
        if images_again:
            both.embed_image = self._remembered(KnownImages(both.embed_image))
        if self.same_words:
            both.embed_language_tokens = self._remembered(KnownWords(both.embed_language_tokens))

    def renewed(self) -> None:
        """The weights are others now."""
        for known in self._known:
            known.forget()

    def _remembered[K: (KnownWords, KnownImages)](self, known: K) -> K:
        self._known.append(known)
        return known

    @property
    @abstractmethod
    def _both(self) -> Any:
        """LeRobot's module of vision-language model and expert."""

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """W of the features of a prefix."""

    @abstractmethod
    def images(self, images: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Images {the checkpoint's key: (B, 3, h, w) in 0 to 1} as the model takes them, and which there are.

        Cameras that stay dark are left out: their tokens count nowhere, not even as places.
        """

    def prompts(self, instructions: Sequence[str], state: Tensor) -> list[str]:
        """What is tokenized for instructions and normalised states (B, S)."""
        return [words if words.endswith("\n") else f"{words}\n" for words in instructions]

    @abstractmethod
    def errors(
        self,
        images: Sequence[Tensor],
        seen: Sequence[Tensor],
        tokens: Tensor,
        words: Tensor,
        state: Tensor,
        actions: Tensor,
        noise: Tensor,
        t: Tensor,
    ) -> Tensor:
        """Squared errors of the velocity on the way from actions to noise, each (B, H, D): LeRobot's own."""

    def look(
        self, images: Sequence[Tensor], seen: Sequence[Tensor], tokens: Tensor, words: Tensor, state: Tensor
    ) -> Prefix:
        """One pass of the vision-language model.

        images: (B, 3, h, w) each, as the model takes them; seen: (B,) bool each, whether there is one. tokens: (B, L)
        int64, words: (B, L) bool, which of them count. state: (B, S), normalised and padded.
        """
        embedded, mask, blocks = self._embed(images, seen, tokens, words, state)
        read: Callable[..., Any] = self._compiled.get("_read", self._read)
        features, cache = read(embedded, mask, blocks)
        return Prefix(mask, cache, state, features)

    def time_each(self) -> None:
        """From now on `velocity` also takes a time for each action, t (B, H): LeRobot's own knows one for all."""
        self.model.embed_suffix = partial(_embedded_each, self.model.embed_suffix)

    def velocity(self, prefix: Prefix, x: Tensor, t: Tensor) -> Tensor:
        """v at the points x (B, H, D) and times t (B,), or (B, H) after `time_each`, (B, H, D) float32.

        The prefix stays as it is.
        """
        if not self._compiled:
            return self._velocity(prefix, x, t)
        # Copies: what is compiled is compiled anew for each way in which a tensor can be a part of another.
        v: Tensor = self._compiled["_velocity"](prefix, x.clone(), t.clone())
        return v

    @abstractmethod
    def _embed(
        self, images: Sequence[Tensor], seen: Sequence[Tensor], tokens: Tensor, words: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """LeRobot's embedded prefix (B, L, W), its mask (B, L), its blocks (B, L)."""

    def _read(self, embedded: Tensor, mask: Tensor, blocks: Tensor) -> tuple[Tensor, Any]:
        """Features (B, W) and cache of a prefix."""
        (out, _), cache = self._both.forward(
            attention_mask=self._attention(make_att_2d_masks(mask, blocks)),
            position_ids=torch.cumsum(mask, 1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=True,
        )
        return _pooled(out, mask), cache

    def _attention(self, allowed: Tensor) -> Tensor:
        """Who sees whom (B, L, L) bool, as the architecture takes it."""
        return allowed

    @abstractmethod
    def _velocity(self, prefix: Prefix, x: Tensor, t: Tensor) -> Tensor:
        """As `velocity`."""


class SmolVLAField(Field):
    """SmolVLA (arXiv:2506.01844): the state is a token of the prefix; every other layer of the expert sees it."""

    @property
    def feature_dim(self) -> int:
        return int(self.model.vlm_with_expert.config.text_config.hidden_size)

    def images(self, images: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        shown, seen = self.policy.prepare_images(dict(images))
        # A dark one's marks count, where a checkpoint has them.
        return (shown, seen) if self.model.add_image_special_tokens else (shown[: len(images)], seen[: len(images)])

    def errors(self, *given: Any) -> Tensor:
        errors: Tensor = self.model.forward(*given)
        return errors

    @property
    def _both(self) -> Any:
        return self.model.vlm_with_expert

    def _embed(self, *given: Any) -> Any:
        return self.model.embed_prefix(*given)

    def _velocity(self, prefix: Prefix, x: Tensor, t: Tensor) -> Tensor:
        # Its layers append to the cache, and take it away again. A gradient, and a compiler, need a cache that stays.
        lent = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        cache = prefix.cache if lent else clone_past_key_values(prefix.cache)
        v: Tensor = self.model.denoise_step(x_t=x, prefix_pad_masks=prefix.mask, past_key_values=cache, timestep=t)
        return v


class PiField(Field):
    """pi0 (arXiv:2410.24164) and pi0.5 (arXiv:2504.16054): the expert attends to the prefix in every layer."""

    @property
    def feature_dim(self) -> int:
        return int(self.model.paligemma_with_expert.paligemma.config.text_config.hidden_size)

    def images(self, images: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        shown, seen = self.policy._preprocess_images(dict(images))
        return shown[: len(images)], seen[: len(images)]

    def errors(self, images: Any, seen: Any, tokens: Any, words: Any, state: Any, *walk: Any) -> Tensor:
        given = (images, seen, tokens, words) + ((state,) if self.policy.name == "pi0" else ())
        errors: Tensor = self.model.forward(*given, *walk)
        return errors

    @property
    def _both(self) -> Any:
        return self.model.paligemma_with_expert

    def _embed(self, *given: Any) -> Any:
        return self.model.embed_prefix(*given[:-1])  # the state comes later, or in the prompt

    def _attention(self, allowed: Tensor) -> Tensor:
        additive: Tensor = prepare_attention_masks_4d(allowed)
        return additive

    def _read(self, embedded: Tensor, mask: Tensor, blocks: Tensor) -> tuple[Tensor, Any]:
        language = self._both.paligemma.model.language_model
        language.config._attn_implementation = "eager"  # as LeRobot has it: the masks are additive
        if language.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16:
            embedded = embedded.to(torch.bfloat16)
        return super()._read(embedded, mask, blocks)

    def _velocity(self, prefix: Prefix, x: Tensor, t: Tensor) -> Tensor:
        # pi0.5 reads its state in the prompt.
        state = {"state": prefix.state} if self.policy.name == "pi0" else {}
        v: Tensor = self.model.denoise_step(
            prefix_pad_masks=prefix.mask, past_key_values=prefix.cache, x_t=x, timestep=t, **state
        )
        return v


class Pi05Field(PiField):
    """pi0.5 reads its state in the prompt, in 256 steps from -1 to 1 (arXiv:2504.16054, as LeRobot's processor)."""

    same_words = False

    def time_each(self) -> None:
        super().time_each()
        for norm in self._both.gemma_expert.modules():
            if isinstance(norm, PiGemmaRMSNorm):
                norm.forward = partial(_normed_each, norm.forward)

    def prompts(self, instructions: Sequence[str], state: Tensor) -> list[str]:
        steps = np.digitize(state.detach().cpu().numpy(), np.linspace(-1, 1, 257)[:-1]) - 1
        tasks = [words.strip().replace("_", " ").replace("\n", " ") for words in instructions]
        states = [" ".join(map(str, row)) for row in steps]
        return [f"Task: {task}, State: {row};\nAction: " for task, row in zip(tasks, states, strict=True)]


FIELDS: dict[str, type[Field]] = {"smolvla": SmolVLAField, "pi0": PiField, "pi05": Pi05Field}


def _embedded_each(embedded: Callable[..., Any], *given: Tensor) -> Any:
    """LeRobot's embedding of what the expert is given, (state,) x (B, H, D) and t (B,), where t may be (B, H).

    It is asked for one action at a time then: what it makes of one knows no other.
    """
    *state, x, t = given
    if t.ndim == 1:
        return embedded(*given)
    b, h = t.shape
    whole, mask, blocks, *_ = embedded(*state, x, t[:, 0])
    rows = (part.repeat_interleave(h, 0) for part in state)
    each, _, _, *conditions = embedded(*rows, x.reshape(b * h, 1, -1), t.reshape(b * h))
    tokens = torch.cat([whole[:, :-h], each[:, -1].view(b, h, -1)], 1)
    return tokens, mask, blocks, *(c if c is None else c.view(b, h, -1) for c in conditions)


def _normed_each(normed: Callable[..., Any], x: Tensor, cond: Tensor | None = None) -> Any:
    """LeRobot's norm of tokens x (B, H, W), whose condition may be one for each, (B, H, C), besides one for all."""
    if cond is None or cond.ndim == 2:
        return normed(x, cond)
    found, gate = normed(x[:, None], cond[:, None])
    return found[:, 0], gate[:, 0]


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function, dynamic=True)
    return compiled


def _pooled(out: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(torch.float32)[..., None]
    return (out.to(torch.float32) * weight).sum(1) / weight.sum(1)
