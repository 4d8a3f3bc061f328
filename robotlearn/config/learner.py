"""The learner: where it listens, when it updates, what it keeps."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PlainValidator, PositiveInt, model_validator

from robotlearn.config.address import BindAddress, PublicKeyText, is_loopback
from robotlearn.config.approval import ApprovalConfig
from robotlearn.config.device import DEVICE, Device
from robotlearn.config.section import Misfit, Section


def _staleness(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        if value == math.inf:
            return math.inf
        if value == int(value):
            return int(value)
    raise ValueError("a whole number of at least 0, or inf")


class LearnerConfig(Section):
    """The process that owns buffer, optimiser and the versions of the weights."""

    bind: BindAddress = Field(
        "tcp://127.0.0.1:*", description="Where it listens: tcp://HOST:PORT; port * takes any free one."
    )
    key: PublicKeyText | None = Field(
        None,
        description="The learner's public key, as `robotlearn keys new learner` printed it there. With it nothing goes "
        "unencrypted, edges talk to nobody else, each with the key of its own name, and the learner lets in whom "
        "`robotlearn keys allow` named. null: no keys, so this machine only.",
    )
    insecure_public: bool = Field(
        False,
        description="Listen beyond this machine without keys: whoever reaches the port can then feed the learner and "
        "read its weights.",
    )
    threads: Annotated[PositiveInt, Field(le=1024)] = Field(1, description="Threads of torch in the learner's process.")
    device: Device = Field("cpu", description=f"What it learns on: {DEVICE}")
    episodes_per_update: Annotated[PositiveInt, Field(le=2**20)] = Field(
        256, description="B: finished episodes that one update of an on-policy algorithm learns from."
    )
    max_staleness: Annotated[float, PlainValidator(_staleness)] = Field(
        1,
        description="Versions that a sample may lie behind: 0 is synchronous, inf never waits. An edge starts a new "
        "episode only within the bound. On-policy algorithms skip and count samples beyond it, though they are stored; "
        "off-policy ones draw old samples, too.",
    )
    updates: NonNegativeInt = Field(60, description="The run ends after this many updates; 0: imitation only.")
    stop_success: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="The run ends before that once the moving average of the training success reaches this."
    )
    checkpoint_every: PositiveInt = Field(5, description="Updates between checkpoints; the last is always kept.")
    keep_checkpoints: PositiveInt = Field(
        3, description="Newest checkpoints that are kept; so is the one with the highest success in training."
    )
    max_stored_bytes: Annotated[int, Field(ge=2**26)] | None = Field(
        None,
        description="Beyond this the oldest stored episodes are deleted, whole ones, and counted; never those in which "
        "a person intervened, nor what was not learnt from at the oldest of keep_checkpoints. Their numbers, some "
        "hundred bytes a step, leave an off-policy learner's memory when it is started again. null: none is.",
    )
    eval_every: PositiveInt | None = Field(
        None, description="Updates between evaluations without exploration noise; null: only by `robotlearn eval`."
    )
    eval_episodes: PositiveInt = Field(100, description="Episodes of one such evaluation.")
    weights_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="In which edges get the parameters: float32, as they are; bfloat16, rounded to half the bytes, for "
        "large policies and slow links. Statistics stay exact, and what is recorded is what the rounded policy did.",
    )
    max_frame_bytes: Annotated[int, Field(ge=65536, lt=2**31)] = Field(
        64 * 2**20, description="Largest message that is accepted; edges are told, and reject larger ones themselves."
    )

    approval: ApprovalConfig | None = Field(
        None, description="What new weights must pass before real arms have them; null: nothing."
    )

    @model_validator(mode="after")
    def _reachable_only_on_purpose(self) -> Self:
        if not is_loopback(self.bind) and self.key is None and not self.insecure_public:
            raise Misfit(
                ("bind",),
                f"'{self.bind}' can be reached from other machines, and without keys whoever reaches it can feed the "
                "learner; expected learner.key (see `robotlearn keys --help`), a loopback address such as "
                "tcp://127.0.0.1:*, or insecure_public: true",
            )
        return self
