"""Where a policy computes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

DEVICE = (
    "cpu; cuda or cuda:1, a GPU; auto, a GPU where torch can use one, else the CPU. Small policies are faster on the "
    "CPU."
)


def _known(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", name):
        raise ValueError("auto, cpu, cuda, or cuda with a number as cuda:1")
    return name


Device = Annotated[str, AfterValidator(_known)]
