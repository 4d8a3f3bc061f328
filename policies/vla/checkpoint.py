"""LeRobot's checkpoints, in a folder or on a hub: their files, their weights, statistics and cameras."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policies.encoder import IMAGES
from policies.errors import PolicyConfigError
from policies.normalizer import Features, Scale, Statistics
from policies.vla.tiny import TOKENIZER, VLM

CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "policy_preprocessor.json"
_TOKENIZERS = {"pi0": "google/paligemma-3b-pt-224", "pi05": "google/paligemma-3b-pt-224"}
_SHOWN = 5  # names in a message
IMAGE = "observation.images"
_TYPES = {"observation.state": "STATE", "observation.environment_state": "ENV", "action": "ACTION", IMAGE: "VISUAL"}
_PAIRS = {"min_max": ("min", "max"), "quantiles": ("q01", "q99"), "quantile10": ("q10", "q90")}


class Checkpoint:
    """One folder, or one repository of a hub, of which files are fetched when they are asked for.

    Raises PolicyConfigError, here and in all methods, in one line: no such folder or repository, a gated one, no
    network, a file that isn't there or is broken, or another kind of policy.

    Attributes:
        cameras: its image features {key: (3, height, width)}.
    """

    def __init__(self, source: str, kind: str) -> None:
        self.source, self.kind = source, kind
        self.folder = Path(source) if Path(source).is_dir() else None
        if self.folder is None and (source.startswith((".", "/", "~")) or source.count("/") != 1):
            raise PolicyConfigError(
                f"policy.pretrained: there is no folder {source}, and it is no repository of a hub (owner/name) either."
            )
        try:
            self.settings: dict[str, Any] = json.loads(self.file(CONFIG).read_text())
            inputs = {
                key: (one["type"], tuple(map(int, one["shape"])))
                for key, one in self.settings["input_features"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PolicyConfigError(
                f"policy.pretrained: the {CONFIG} of {source} is not one of LeRobot's: {_told(error)}"
            ) from error
        if self.settings.get("type") != kind:
            raise PolicyConfigError(
                f"policy.pretrained: {source} holds a policy of type {self.settings.get('type')!r}, not {kind!r}: "
                f"set policy.kind={self.settings.get('type')}."
            )
        self.cameras = {key: shape for key, (what, shape) in inputs.items() if what == "VISUAL"}

    def configuration(self) -> Any:
        """LeRobot's configuration, for the CPU."""
        import draccus
        from draccus.utils import DecodingError
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class

        get_policy_class(self.kind)  # which makes its configuration known
        settings = {key: value for key, value in self.settings.items() if key != "type"}
        try:
            return draccus.decode(PreTrainedConfig.get_choice_class(self.kind), settings | {"device": "cpu"})
        except (DecodingError, ValueError) as error:
            told = str(error).splitlines()[0]
            raise PolicyConfigError(
                f"policy.pretrained: this LeRobot can't read the {CONFIG} of {self.source}: {told}"
            ) from error

    def file(self, name: str) -> Path:
        """One of its files, here."""
        path = self.optional(name)
        if path is None:
            raise PolicyConfigError(f"policy.pretrained: {self.source} has no {name}: no checkpoint of LeRobot.")
        return path

    def optional(self, name: str) -> Path | None:
        """The same, None where there is none."""
        if self.folder is None:
            return _fetched(self.source, name)
        return self.folder / name if (self.folder / name).exists() else None

    def language_model(self) -> str:
        """Where SmolVLA's vision-language model is described: in the folder itself, or on the hub."""
        here = self.folder / VLM if self.folder is not None else None
        return str(here) if here is not None and here.is_dir() else str(self.settings["vlm_model_name"])

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        here = self.folder / TOKENIZER if self.folder is not None else None
        source = (
            str(here) if here is not None and here.is_dir() else _TOKENIZERS.get(self.kind) or self.language_model()
        )
        return asked(source, lambda: AutoTokenizer.from_pretrained(source))


def load_weights(policy: nn.Module, checkpoint: Checkpoint) -> None:
    """The checkpoint's weights, all of them. LeRobot's own loader goes on with random ones where some are missing.

    Raises PolicyConfigError naming what is missing, what nothing here takes, or what holds NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(checkpoint.file(WEIGHTS))
    except SafetensorError as error:
        raise PolicyConfigError(
            f"policy.pretrained: the {WEIGHTS} of {checkpoint.source} can't be read ({error}): half a download, or "
            "what git-lfs left in its place? Fetch it again."
        ) from error
    if checkpoint.kind in ("pi0", "pi05"):
        # Of these LeRobot changes nothing, but warns each time.
        eyes = {key: found.pop(key) for key in list(found) if "patch_embedding" in key}
        found = policy._fix_pytorch_state_dict_keys(found, policy.config) | eyes  # type: ignore[operator]
        found = {key if key.startswith("model.") else f"model.{key}": value for key, value in found.items()}
    wanted = policy.state_dict()
    shared = _shared(wanted)
    missing = [key for key in wanted if key not in found and not any(twin in found for twin in shared[key])]
    extra = [key for key in found if key not in wanted]
    wrong = [
        f"{key} is {tuple(value.shape)}, expected {tuple(wanted[key].shape)}"
        for key, value in found.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    for what, names in (("lacks", missing), ("has, and nothing here takes,", extra), ("has other sizes:", wrong)):
        if names:
            raise PolicyConfigError(
                f"policy.pretrained: {checkpoint.source} {what} {len(names)} weights: {', '.join(names[:_SHOWN])}"
                f"{', ...' if len(names) > _SHOWN else ''}"
            )
    policy.load_state_dict(found, strict=False)
    # As they are here: of what a file may hold, such as float8, torch can't always tell.
    sick = next((key for key in found if not wanted[key].isfinite().all()), None)
    if sick is not None:
        raise PolicyConfigError(
            f"policy.pretrained: {sick} of {checkpoint.source} holds NaN or infinity, and so would every action: its "
            "training broke down; take an earlier checkpoint of it."
        )


def scales(settings: Any) -> dict[str, Scale]:
    """By what state, numbers, actions and images are normalised, as LeRobot's configuration or its file says."""
    known = settings["normalization_mapping"] if isinstance(settings, dict) else settings.normalization_mapping
    modes = {str(kind): str(getattr(mode, "value", mode)).lower() for kind, mode in known.items()}
    return {key: modes.get(kind, "identity") for key, kind in _TYPES.items()}  # type: ignore[misc]


def trained_with(checkpoint: Checkpoint) -> dict[str, Statistics]:
    """What it was trained with, of each key that its statistics name; empty where there are none.

    Images have theirs per colour, for values from 0 to 1. Raises PolicyConfigError for files that can't be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    known, name = checkpoint.optional(PROCESSOR), PROCESSOR
    if known is None:
        return {}
    try:
        steps = json.loads(known.read_text())["steps"]
        step = next((one for one in steps if one.get("registry_name") == "normalizer_processor"), None)
        if step is None or "state_file" not in step:
            return {}
        scale = scales({"normalization_mapping": step["config"].get("norm_map", {})})
        file, name = checkpoint.file(step["state_file"]), step["state_file"]
        numbers = {key: value.double().numpy() for key, value in load_file(file).items()}
        keys = {entry.rpartition(".")[0] for entry in numbers}
        every = {key: _statistics(numbers, key, scale.get(key, "mean_std")) for key in keys}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PolicyConfigError(
            f"policy.pretrained: the {name} of {checkpoint.source} is not one of LeRobot's: {_told(error)}. Fetch it "
            "again; without it the checkpoint has no statistics."
        ) from error
    return {key: one for key, one in every.items() if one is not None}


def statistics_of(checkpoint: Checkpoint, sizes: Mapping[str, int]) -> dict[str, Statistics]:
    """What it was trained with, of these keys with so many entries; raises PolicyConfigError where it doesn't say."""
    known, scale, out = trained_with(checkpoint), scales(checkpoint.configuration()), {}
    for key, size in sizes.items():
        if scale[key] == "identity":
            out[key] = Statistics(np.zeros(size), np.ones(size))
        elif key not in known:
            raise PolicyConfigError(
                f"policy.statistics=checkpoint: {checkpoint.source} names none of {key}; use statistics=data."
            )
        elif known[key].mean.shape != (size,):
            raise PolicyConfigError(
                f"policy.statistics=checkpoint: those of {key} in {checkpoint.source} have {len(known[key].mean)} "
                f"entries, and this robot's have {size}: it was trained with another one; use statistics=data."
            )
        else:
            out[key] = known[key]
    return out


def _statistics(numbers: Mapping[str, NDArray[np.float64]], key: str, scale: Scale) -> Statistics | None:
    names = [f"{key}.{name}" for name in _PAIRS.get(scale, ("mean", "std"))]
    if scale == "identity" or any(name not in numbers for name in names):
        return None
    one, two = (np.ravel(numbers[name]) for name in names)
    return Statistics(one, two) if scale == "mean_std" else Statistics.spanning(one, two)


def partners(
    checkpoint: Checkpoint, features: Features, given: Mapping[str, str | None], *, dark: bool
) -> dict[str, str]:
    """{the checkpoint's key: the robot's image feature}, by equal names or as `given` has it.

    `given`: {the checkpoint's camera: the robot's, which may be that of several, or None to leave it dark}, names as
    `_short` makes them; `dark`: whether a policy of this kind can do without one. Raises PolicyConfigError for a camera
    on either side that has no partner.
    """
    here = [key.removeprefix(IMAGES) for key in features if key.startswith(IMAGES)]
    there = {_short(key): key for key in checkpoint.cameras}
    if len(there) < len(checkpoint.cameras):
        raise PolicyConfigError(
            f"policy.pretrained: of {checkpoint.source}'s cameras, {', '.join(checkpoint.cameras)}, two have one name "
            "when their prefix is gone: give one another in its config.json and policy_preprocessor.json."
        )
    for name, known, whose in (
        *((n, there, "the checkpoint") for n in given),
        *((n, here, "the robot") for n in given.values() if n),
    ):
        if name not in known:
            raise PolicyConfigError(
                f"policy.cameras: {whose} has no camera {name!r}; it has {', '.join(known) or 'none'}."
            )
    if not dark and None in given.values():
        raise PolicyConfigError(f"policy.cameras: null is not valid with {checkpoint.kind}, which needs every camera.")
    of = {name: given.get(name, name if name in here else "") for name in there}
    lost = [name for name, robots in of.items() if robots == ""]
    if lost:
        raise PolicyConfigError(
            f"policy.cameras: {checkpoint.source} looks through camera {lost[0]!r}, which the robot has not (it has "
            f"{', '.join(here) or 'none'}). Say which is meant, policy.cameras.{lost[0]}={(here or ['NAME'])[0]}"
            + (f", or leave it dark, policy.cameras.{lost[0]}=null." if dark else ".")
        )
    unused = [name for name in here if name not in of.values()]
    if unused:
        raise PolicyConfigError(
            f"policy.cameras: nothing of {checkpoint.source} looks through the robot's camera {unused[0]!r}; its "
            f"cameras are {', '.join(there)}. Map one of them, policy.cameras.{next(iter(there), 'NAME')}={unused[0]}, "
            "or take the camera out of observations.cameras."
        )
    return {there[name]: f"{IMAGES}{robots}" for name, robots in of.items() if robots}


def _short(key: str) -> str:
    """A camera's name without prefix, which PushT's `observation.image` hasn't, as an override can say it: no dots."""
    return key.removeprefix(IMAGES).removeprefix("observation.").replace(".", "_")


def _shared(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of the same memory as each: files hold one of them."""
    by_place: dict[tuple[int, torch.Size], list[str]] = {}
    for key, value in state.items():
        by_place.setdefault((value.data_ptr(), value.shape), []).append(key)
    return {key: names for names in by_place.values() for key in names}


def _fetched(repository: str, name: str) -> Path | None:
    """A file of a repository, None when it has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch() -> Path | None:
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError:  # no network: whether there is one can't be known
            raise
        except EntryNotFoundError:
            return None

    return asked(repository, fetch)


def asked[T](source: str, ask: Callable[[], T]) -> T:
    """What a question to a hub gives, its many errors as one line each."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return ask()
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        told = f"{source} can't be fetched: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"
        causes = tuple(_causes(error))
        if any(isinstance(cause, GatedRepoError) for cause in causes):
            told = (
                f"{source} is gated: accept its terms on its page with your account, then log in here with "
                "`hf auth login`."
            )
        elif any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
            told = f"no hub has a repository {source}, or it is private and you are not logged in."
        elif any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in causes) or not (
            any(isinstance(cause, HfHubHTTPError) for cause in causes) or getattr(error, "errno", None)
        ):
            told = (
                f"{source} is no folder here, and as a repository it can't be fetched: no network, or HF_HUB_OFFLINE "
                f"is set. Fetch it where there is one, `hf download {source}`, and name the folder."
            )
        raise PolicyConfigError(told) from error


def _told(error: Exception) -> str:
    """In one line. Not its repr: that of an error of decoding holds the whole file."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it: transformers hides what the hub said behind errors of its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
