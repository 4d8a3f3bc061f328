"""What `observations.image_size: auto` stands for: the size to which a VLA's checkpoint scales its images.

Not in `policies`, since arm processes ask too: imports no torch.
"""

import json
from functools import lru_cache
from pathlib import Path

from robotlearn.errors import ConfigError

_NAMES = {"smolvla": "resize_imgs_with_padding", "pi0": "image_resolution", "pi05": "image_resolution"}
_KEY = "observations.image_size=auto"


def model_image_size(kind: str, pretrained: str) -> tuple[int, int]:
    """Height and width into which LeRobot's `kind` fits its images, by the config.json of the checkpoint.

    `pretrained`: a folder or a repository of the hub. Raises ConfigError when that can't be read, or names no size.
    """
    here = Path(pretrained) / "config.json" if Path(pretrained).is_dir() else _fetched(pretrained)
    try:
        size = json.loads(here.read_text())[_NAMES[kind]]
        one, other = (int(side) for side in size)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{_KEY}: {here} names no size ({_NAMES[kind]}: {error!r}); give height and width, such as [384,512]"
        ) from error
    return (other, one) if kind == "smolvla" else (one, other)  # SmolVLA names the width first


@lru_cache
def _fetched(repository: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repository, "config.json"))
    except (ImportError, OSError, ValueError) as error:  # the hub's errors are among them
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{_KEY}: the config.json of {repository} can't be had, from a folder or from a hub: {reason}"
        ) from error
