"""The edges: what runs on one robot workstation, or on this machine in its place."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from robotlearn.config.complaint import shown
from robotlearn.config.device import DEVICE, Device
from robotlearn.config.estop import EstopConfig
from robotlearn.config.section import Misfit, Names, Section
from robotlearn.wire.encodings import CRF, IMAGES, QUALITY, Encodings, ImageEncoding


class SpoolConfig(Section):
    """The edge's log of records that the learner hasn't acknowledged yet."""

    max_bytes: Annotated[int, Field(ge=2**20)] = Field(
        2**30, description="Beyond this the oldest records are evicted, and counted."
    )
    max_age_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Older records are evicted too, and counted; null: they are kept however long it takes."
    )
    sync: Literal["process", "power"] = Field(
        "process",
        description="What a record survives before it is sent: the death of the process, or the loss of power too "
        "(one fdatasync more per batch of records).",
    )


Milliseconds = Annotated[float, Field(ge=0, le=60_000)]


class LinkConfig(Section):
    """A bad network between this edge and its learner, for rehearsal: what goes over it suffers, in each direction."""

    delay_ms: Milliseconds = Field(0.0, description="Delay, one way.")
    jitter_ms: Milliseconds = Field(0.0, description="Up to so much more, never out of order.")
    mbit: Annotated[float, Field(gt=0)] | None = Field(None, description="Megabits per second; null: no limit.")
    drop_every_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Each connection is reset so often, on average; null: never."
    )


class ImagesConfig(Section):
    """How the images of a camera are recorded, stored and sent."""

    encoding: Literal["raw", "jpeg", "lossless", "video"] = Field(
        "raw", description="raw; jpeg, each by itself; lossless; video, a segment at a time (H.264)."
    )
    quality: Annotated[int, Field(ge=1, le=100)] = Field(QUALITY, description="Of jpeg: higher is better and larger.")
    crf: Annotated[int, Field(ge=0, le=51)] = Field(CRF, description="Of video: lower is better and larger.")

    @model_validator(mode="after")
    def _keys_are_the_encodings(self) -> Self:
        for key, encoding in (("quality", "jpeg"), ("crf", "video")):
            default = type(self).model_fields[key].default
            # A dumped config holds the defaults too: only another value can have been wanted.
            if self.encoding != encoding and getattr(self, key) != default:
                raise Misfit(
                    (key,),
                    f"{shown(getattr(self, key))} is not valid with encoding {self.encoding}, expected it with "
                    f"{encoding} only",
                )
        return self


def _encoding(value: Any) -> Any:
    return {"encoding": value} if isinstance(value, str) else value


def _cameras(value: Any) -> Any:
    return {DEFAULT: value} if isinstance(value, str) else value


DEFAULT = "default"
"""In place of a camera's name: all cameras that aren't named."""
Images = Annotated[dict[str, Annotated[ImagesConfig, BeforeValidator(_encoding)]], BeforeValidator(_cameras)]

_KIND = "batch: many simulated arms as fast as they go; paced: one arm by the wall clock."


class _Edge(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = Field(
        description="Its name in messages, metrics and file names; no two edges of a run share one."
    )
    robot: Names | None = Field(None, description="Which of the run's robots it has; null: all of them.")
    task: Names | None = Field(None, description="Which of the run's tasks it works on; null: all of them.")
    threads: Annotated[PositiveInt, Field(le=1024)] = Field(
        1, description="Threads of the policy and, in a batch edge, of the simulation."
    )
    device: Device = Field("cpu", description=f"What its policy runs on: {DEVICE}")
    explore: bool = Field(
        True,
        description="Its policy explores, as reinforcement needs it. false: it does what it does best, as hgdagger has "
        "it, or a person would correct the exploration's mistakes.",
    )
    segment_steps: PositiveInt = Field(32, description="Longest segment, in environment steps; an episode is cut so.")
    offline_episodes: NonNegativeInt = Field(
        256, description="Episodes that it still starts while it can't reach the learner, over all its arms."
    )
    upload_mbit: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Megabits per second and arm that it sends at most; what is recorded faster waits in its log. "
        "null: no limit.",
    )
    tunnel: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@:/\[\]-]*$")] | None = Field(
        None,
        description="Reach the learner through ssh, kept up: user@host, ssh://user@host:port, or a name of "
        "~/.ssh/config; the learner's address is then as seen from there. null: directly.",
    )
    weights_mbit: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Megabits per second that weights may take of the way from the learner; null: no limit.",
    )
    link: LinkConfig | None = Field(None, description="A bad network to the learner, for rehearsal; null: as it is.")
    spool: SpoolConfig = Field(SpoolConfig(), description="Its log of what isn't acknowledged yet.")
    arrays: Literal["zstd", "raw"] = Field(
        "zstd",
        description="All that isn't an image: zstd, compressed without loss where that saves a tenth or more; raw.",
    )
    images: Images = Field(
        {},
        description="How images are recorded and sent: raw, jpeg, lossless or video, for all cameras or for each, such "
        "as {front: jpeg, wrist: {encoding: video, crf: 23}, default: lossless}. jpeg has a quality, 1 to 100 "
        f"({QUALITY}), video a crf, 0 to 51, less is better ({CRF}); both lose something, which ppo and grpo must be "
        "allowed (algorithm.lossy_images).",
    )

    def encodings(self) -> Encodings:
        """What its recorder encodes with."""
        images = {camera: ImageEncoding(*one.model_dump().values()) for camera, one in self.images.items()}
        other = images.pop(DEFAULT, ImageEncoding())
        return Encodings(self.arrays, tuple((IMAGES + camera, how) for camera, how in images.items()), other)


class ScriptedPersonConfig(Section):
    """The task's scripted expert in the place of a person: watches simulated arms, and takes over where the policy
    makes no headway; for trying HG-DAgger without robots and people.
    """

    kind: Literal["scripted"] = Field(description="scripted: the task's scripted expert takes over.")
    patience: PositiveInt = Field(
        6,
        description="They take over after so many steps in a row without headway. With fewer than the expert itself "
        "needs at the task's slowest place (lift 5; push, pick_place, stack 9) they meddle.",
    )
    setback: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="They take over at once where the task's progress falls so far below its last headway."
    )
    headway: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.02,
        description="A step makes headway when the task's own measure of progress, 0 to 1, is so much above where it "
        "last did.",
    )
    until: Literal["headway", "end"] = Field(
        "headway", description="When they give back: after `steady` steps of headway; or at the episode's end."
    )
    steady: PositiveInt = Field(8, description="With until: headway, after how many steps of it they give back.")
    episodes: NonNegativeInt | None = Field(
        None,
        description="They attend so many of this edge's episodes, then they leave, and the policy goes on alone; an "
        "edge that is started again counts anew. null: all.",
    )
    corrections: NonNegativeInt | None = Field(
        None,
        description="They take over in so many of this edge's episodes, then they leave likewise. null: wherever it "
        "is needed.",
    )

    @model_validator(mode="after")
    def _given_back_by_headway(self) -> Self:
        # A dumped config holds the default too: only another value can have been wanted.
        if self.until == "end" and self.steady != type(self).model_fields["steady"].default:
            raise Misfit(("steady",), f"{self.steady} is not valid with until: end, expected it with headway only")
        return self


class BatchEdgeConfig(_Edge):
    """Many simulated arms in lockstep, as fast as they go."""

    kind: Literal["batch"] = Field(description=_KIND)
    arms: Annotated[PositiveInt, Field(le=65536)] = Field(
        64, description="Simulated arms, shared out evenly among its robots and tasks."
    )
    person: ScriptedPersonConfig | None = Field(
        None, description="Who watches its arms and takes over from the policy; null: nobody."
    )


class PersonConfig(Section):
    """Who may take over from the policy while an enable switch is held, and mark episodes."""

    device: Literal["keyboard", "gamepad", "leader"] = Field(description="What they hold.")
    options: dict[str, Any] = Field(
        {}, description="The device's own: path of a gamepad, type and port of a leader, terminal of a keyboard, ..."
    )
    speed: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="Share of the robot's speed that it may use.")
    blend_s: Annotated[float, Field(ge=0, le=10)] = Field(
        0.5, description="For so many seconds after giving back, the policy's actions are taken in part."
    )


Way = Literal["wait", "hold", "overlap", "rtc", "vlash", "prefix"]
WAYS: tuple[Way, ...] = get_args(Way)
LATE = ("overlap", "rtc", "vlash", "prefix")
"""Ways to execute whose actions are not those of one chunk from the recorded observation alone."""


class ExecutionConfig(Section):
    """What an arm does while its next chunk is computed."""

    way: Way = Field(
        "hold",
        description="hold: chunks one after the other; the arm holds where the next one is late. wait: a simulated arm "
        "stands still, and its episode with it, until the chunk of its newest observation is there. overlap: the next "
        "chunk begins when it is there, averaged with what it overlaps (ACT). rtc: real-time chunking, the next chunk "
        "is computed so that it goes on as the running one does, for flow policies. vlash: the policy is shown the "
        "arm's state as it will be when its chunk begins. prefix: the policy is shown the actions until then, and was "
        "trained so (policy.max_delay). All but hold and wait need explore false.",
    )
    ahead: NonNegativeInt = Field(
        2,
        description="The next chunk is asked for this many steps before the running one ends. 0: with its last action "
        "done, for policies that answer within a period of the driver (driver_hz). overlap, rtc, vlash and prefix: "
        "half of the chunk is usual, and more than the policy takes. Not with wait.",
    )
    decay: Annotated[float, Field(ge=0)] = Field(
        0.01, description="Of overlap: an action from the chunk that is i younger than the oldest counts exp(-decay i)."
    )
    guidance: Annotated[float, Field(gt=0)] = Field(
        5.0, description="Of rtc: beta, the bound of the pull towards the running chunk."
    )

    @model_validator(mode="after")
    def _keys_are_the_ways(self) -> Self:
        for key, ways in (
            ("ahead", ("hold", *LATE)),
            ("decay", ("overlap",)),
            ("guidance", ("rtc",)),
        ):
            value = getattr(self, key)
            # A dumped config holds the defaults too: only another value can have been wanted.
            if self.way not in ways and value != type(self).model_fields[key].default:
                raise Misfit(
                    (key,), f"{shown(value)} is not valid with way {self.way}, expected it with {', '.join(ways)} only"
                )
        if self.way in LATE and not self.ahead:
            raise Misfit(("ahead",), f"0 is not valid with way {self.way}, expected at least 1")
        return self


class PacedEdgeConfig(_Edge):
    """One arm by the wall clock, behind an arm process and a policy server, as a real one is."""

    kind: Literal["paced"] = Field(description=_KIND)
    execution: ExecutionConfig = Field(
        ExecutionConfig(), description="What the arm does while its next chunk is computed."
    )
    driver: str | None = Field(
        None, description="What talks to its arm (mujoco, lerobot, ros2, dds, remote, ...); null: what its spec says."
    )
    options: dict[str, Any] = Field(
        {}, description="The driver's own: port and id of a serial arm, topics, address, cameras, ..."
    )
    person: PersonConfig | None = Field(None, description="Who may take over from the policy; null: nobody.")
    scene_reset: Annotated[str, Field(pattern=r"^(pose|key|time:[0-9]+(\.[0-9]+)?)$")] = Field(
        "pose",
        description="What an episode waits for, the arm at its start: pose, nothing more; key, until the person asks "
        "for it; time:SECONDS.",
    )
    estop: EstopConfig | None = Field(None, description="A hardware e-stop at the workstation; null: none.")
    server: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] | None = Field(
        None,
        description="Edges of one name here that run on one machine have one policy server, which computes the chunks "
        "of their arms together; they have the same robot, cameras, execution, device, threads, compile and explore, "
        "and with observations.environment_state the same task. null: one of its own.",
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether its policy server compiles a VLA (torch.compile) before it serves, which takes minutes: "
        "auto, on a GPU.",
    )

    def compiles(self, device: str, can: bool) -> bool:
        """Whether a policy that is on such a device, and `can` be, is to be compiled."""
        return self.compile == "always" or (self.compile == "auto" and device == "cuda" and can)

    @model_validator(mode="after")
    def _someone_asks(self) -> Self:
        if self.scene_reset == "key" and self.person is None:
            raise Misfit(("scene_reset",), "key is not valid without person, expected pose or time:SECONDS")
        if self.scene_reset == "key" and self.person is not None and "enable" in self.person.options:
            raise Misfit(("scene_reset",), "key is not valid with a pedal, which has no Enter: pose or time:SECONDS")
        return self


EdgeConfig = Annotated[BatchEdgeConfig | PacedEdgeConfig, Field(discriminator="kind")]
