"""In which order a spool's records are sent: interventions, what was begun, then the newest episode."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

Key = tuple[int, int]  # (session, sequence)
Episode = tuple[int, int]  # (session, episode)
_Item = tuple[Key, Episode | None]  # and the episode that ends with it
_FOLLOWED = 1 << 17  # episodes whose further records are waited for; more arms than an edge may have


class SendOrder:
    """Keys of records on their way out; each is handed out once, until it is added or put back again.

    First what is put back; then the episodes in which a person intervened; then those of which something was handed out
    already; then, one by one, the newest of the rest. So an episode that was begun is finished, and on a link too slow
    for everything the learner gets whole episodes, the newest ones, while the oldest wait and are evicted first. Not
    safe for use by two threads at once.
    """

    def __init__(self) -> None:
        self._again: deque[_Item] = deque()
        self._starred: deque[_Item] = deque()
        self._begun: deque[_Item] = deque()
        self._waiting: dict[Episode, list[_Item]] = {}  # in the order of their first records
        # Episodes that go first, and whether that is for an intervention: their further records go there as well.
        self._followed: OrderedDict[Episode, bool] = OrderedDict()

    def add(self, key: Key, episode: Episode, *, starred: bool, last: bool, sent: bool = False) -> None:
        """A record of an episode, those of one in their order; `last` ends it, `sent` was handed out before."""
        ahead = self._followed.get(episode)
        if (starred and not ahead) or (sent and ahead is None):
            ahead = starred
            self._follow(episode, starred)
            (self._starred if starred else self._begun).extend(self._waiting.pop(episode, ()))
        item = (key, episode if last else None)
        if ahead is None:
            self._waiting.setdefault(episode, []).append(item)
        else:
            (self._starred if ahead else self._begun).append(item)

    def next(self) -> Key | None:
        """The next one, None when there is none."""
        if not (self._again or self._starred or self._begun):
            if not self._waiting:
                return None
            episode, items = self._waiting.popitem()
            self._follow(episode, False)
            self._begun.extend(items)
        key, ended = (self._again or self._starred or self._begun).popleft()
        if ended is not None:
            self._followed.pop(ended, None)
        return key

    def put_back(self, keys: Iterable[Key]) -> None:
        """Hand these out again, before all others."""
        self._again.extendleft((key, None) for key in sorted(keys, reverse=True))

    def clear(self) -> None:
        """Forget the records, not which episodes were begun."""
        for queue in (self._again, self._starred, self._begun):
            queue.clear()
        self._waiting.clear()

    def __bool__(self) -> bool:
        return bool(self._again or self._starred or self._begun or self._waiting)

    def _follow(self, episode: Episode, starred: bool) -> None:
        self._followed[episode] = starred
        if len(self._followed) > _FOLLOWED:
            self._followed.popitem(last=False)
