"""The device that a config names."""

import torch

from robotlearn.errors import ConfigError


def device(wanted: str, key: str) -> torch.device:
    """`wanted`: as in the config, at `key`. Raises ConfigError for a GPU that torch can't use."""
    there = torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda" if there else "cpu")
    found = torch.device(wanted)
    if found.type == "cuda" and not (there and (found.index or 0) < torch.cuda.device_count()):
        has = f"{torch.cuda.device_count()} of them" if there else "none here"
        raise ConfigError(f"{key} is {wanted}, but of GPUs torch finds {has}; `robotlearn doctor` says more")
    return found
