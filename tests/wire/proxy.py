"""A link that a test can cut, pause and listen to, to stand between an edge and its learner."""

from robotlearn.wire.bad_link import BadLink, Faults


class Proxy(BadLink):
    """A link without faults but for those that a test asks for."""

    def __init__(self, target: str) -> None:
        self.cut_after: int | None = None  # bytes from the target, then every connection is cut once
        self.seen = bytearray()  # all that went through
        super().__init__(target)

    @property
    def paused(self) -> bool:
        """Whether it holds everything back, and nobody is told."""
        return self.faults.hole

    @paused.setter
    def paused(self, paused: bool) -> None:
        self.faults = Faults(hole=paused)

    def carry(self, data: bytes, *, up: bool) -> bytes:
        self.seen += data
        if not up and self.cut_after is not None and self.down >= self.cut_after:
            self.cut_after = None
            self.sever()
        return super().carry(data, up=up)


class Spoiler(BadLink):
    """A link that changes one bit of the first message that holds these bytes."""

    def __init__(self, target: str, holds: bytes) -> None:
        self.holds = holds
        super().__init__(target)

    def carry(self, data: bytes, *, up: bool) -> bytes:
        at = data.find(self.holds)
        if at < 0 or self.corrupted:
            return data
        self.corrupted = 1
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
