"""Checkpoints: a folder of safetensors and JSON that appears whole or not at all.

Imports torch only where tensors are read or written: what a checkpoint says of itself is asked beside robots too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import statistics
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from robotlearn.durable import sync_directory
from robotlearn.errors import CheckpointError, DamagedCheckpointError

if TYPE_CHECKING:
    import torch

FORMAT = 2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a learner needs to go on, and what an evaluation needs to run the policy.

    Attributes:
        version: the version of these weights.
        policy: the policy's state dict, statistics included.
        algorithm: the algorithm's state dict (value network, optimisers, RNGs).
        facts: plain JSON values (success at this version, environment steps so far, position in the log, ...).
        contract: what a policy must agree on to load these weights.
    """

    version: int
    policy: dict[str, torch.Tensor]
    algorithm: dict[str, torch.Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    contract: dict[str, Any] = field(default_factory=dict)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def save(checkpoint: Checkpoint, directory: Path) -> Path:
    """Write a checkpoint as `directory/VERSION`; durable and whole when this returns. Blocks for the disk.

    Raises CheckpointError when the disk fails or is full; then what was there before is untouched.
    """
    try:
        return _save(checkpoint, directory)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {checkpoint.version} can't be written to {directory}: {error}") from error


def place(directory: Path, version: int) -> Path:
    """Where the checkpoint of a version is, or would be."""
    return directory / f"{version:06d}"


def exists(directory: Path, version: int) -> bool:
    """Whether there is a checkpoint of a version."""
    return (place(directory, version) / "checkpoint.json").is_file()


def _save(checkpoint: Checkpoint, directory: Path) -> Path:
    from safetensors.torch import save_file

    final = place(directory, checkpoint.version)
    temporary = directory / f".{final.name}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, tensors in (("policy", checkpoint.policy), ("algorithm", checkpoint.algorithm)):
        save_file(_separate(tensors), temporary / f"{name}.safetensors")
    document = {
        "format": FORMAT,
        "version": checkpoint.version,
        "facts": checkpoint.facts,
        "contract": checkpoint.contract,
        "sha256": {name: _digest(temporary / name) for name in ("policy.safetensors", "algorithm.safetensors")},
    }
    document["self"] = _digest_of(document)
    (temporary / "checkpoint.json").write_text(json.dumps(document))
    for path in temporary.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_directory(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync_directory(directory)
    return final


def _separate(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU; safetensors takes none that share memory or have gaps, so of those it gets copies."""
    found, separate = set(), {}
    for key, tensor in tensors.items():
        here = tensor.detach().cpu()
        storage = here.untyped_storage().data_ptr()
        whole = here.is_contiguous() and here.untyped_storage().nbytes() == here.nbytes and storage not in found
        found.add(storage)
        separate[key] = here if whole else here.clone()
    return separate


def load(path: Path, contract: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read one checkpoint folder.

    Raises CheckpointError when it is missing, damaged, of another format, or when its contract differs from `contract`
    (naming the first key that does).
    """
    from safetensors.torch import load_file

    with _readable(path):
        document = _document(path)
        for name, digest in document["sha256"].items():
            if _digest(path / name) != digest:
                raise DamagedCheckpointError(f"{path / name} is damaged (its hash differs from checkpoint.json)")
    try:
        policy, algorithm = (load_file(path / f"{name}.safetensors") for name in ("policy", "algorithm"))
    except (OSError, SafetensorError) as error:  # what was written is there, and can't be read here
        raise CheckpointError(f"{path} can't be loaded: {error}") from error
    checkpoint = Checkpoint(
        int(document["version"]), policy, algorithm, dict(document["facts"]), dict(document["contract"])
    )
    differs = difference(checkpoint.contract, contract) if contract is not None else ""
    if differs:
        raise CheckpointError(f"{path} belongs to another policy: {differs}")
    return checkpoint


def describe(path: Path) -> Checkpoint:
    """What a checkpoint folder says of itself, without its tensors; raises CheckpointError as `load` does."""
    with _readable(path):
        document = _document(path)
        return Checkpoint(
            int(document["version"]), {}, facts=dict(document["facts"]), contract=dict(document["contract"])
        )


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first key in which a checkpoint's contract and another one differ, with both values; "" when none does."""
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            return f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
    return ""


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / "checkpoint.json").read_bytes())
    if document["format"] != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {document['format']}; this robotlearn reads {FORMAT}")
    if document.pop("self") != _digest_of(document):
        raise DamagedCheckpointError(f"{path / 'checkpoint.json'} is damaged (it differs from its own hash)")
    return document


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path} is not a checkpoint: {error.filename} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        # A disk that can't be read now may be later: that is no damage.
        kind = CheckpointError if isinstance(error, OSError) else DamagedCheckpointError
        raise kind(f"{path} is not a readable checkpoint: {type(error).__name__}: {error}") from error


def list_versions(directory: Path) -> list[Path]:
    """The whole checkpoints in `directory`, oldest first."""
    return [path for path in _folders(directory) if (path / "checkpoint.json").is_file()]


def _folders(directory: Path) -> list[Path]:
    found = (path for path in directory.glob("[0-9]*") if path.name.isdecimal() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name))


def newest(directory: Path) -> Path:
    """The newest checkpoint in `directory`; raises CheckpointError when there is none."""
    versions = list_versions(directory)
    if not versions:
        raise CheckpointError(f"no checkpoint in {directory}")
    return versions[-1]


def best(directory: Path) -> int | None:
    """The version with the highest success in training, the mean of its `recent` updates; the newest of equals.

    None where no checkpoint tells.
    """
    told: list[tuple[float, int]] = []
    for path in list_versions(directory):
        with contextlib.suppress(CheckpointError):
            one = describe(path)
            if one.facts.get("recent"):
                told.append((statistics.fmean(one.facts["recent"]), one.version))
    return max(told)[1] if told else None


def load_newest(directory: Path, contract: Mapping[str, Any]) -> Checkpoint:
    """The newest checkpoint that is whole, to go on from; damaged ones after it are renamed to `damaged-VERSION`, and
    logged.

    Raises CheckpointError when there is none, or as `load` where it isn't for damage.
    """
    damaged: list[tuple[Path, DamagedCheckpointError]] = []
    for path in reversed(_folders(directory)):
        try:
            found = load(path, contract)
        except DamagedCheckpointError as error:
            damaged.append((path, error))
            continue
        for wrong, error in damaged:
            aside = directory / f"damaged-{wrong.name}"
            log.error("%s; it is kept as %s, and the run goes on from version %d", error, aside, found.version)
            shutil.rmtree(aside, ignore_errors=True)
            wrong.rename(aside)
        return found
    raise CheckpointError(f"no checkpoint in {directory}" + (f"; {damaged[0][1]}" if damaged else ""))


def prune(directory: Path, keep: int, needed: Collection[int] = ()) -> None:
    """Delete all but the `keep` newest checkpoints and the `needed` ones, and what an interrupted save left behind."""
    kept = {int(path.name) for path in list_versions(directory)[-keep:]} | set(needed)
    old = [path for path in _folders(directory) if int(path.name) not in kept]  # also those deleted by half
    for path in [*old, *directory.glob(".*.new")]:
        shutil.rmtree(path, ignore_errors=True)  # what can't be deleted now is tried again
