"""What a learner keeps of its store below a bound."""

from __future__ import annotations

from robotlearn.buffer.compact import Needs
from robotlearn.buffer.log_files import Position


def test_what_a_feed_or_a_checkpoint_names_stays_where_it_is() -> None:
    """A damaged record that moved would be learnt from by a resumed run, and one with unreadable images drawn."""
    now = {"end": [7, 64, 0], "unused": [], "damaged": [[3, 0, 64]], "unreadable": [[0, 2, 64, 64], [1, 5, 0, 64]]}
    before = {"end": [6, 0, 0], "unused": [[4, 0, 64]]}
    needs = Needs.of([now, before])
    assert needs.files(dict.fromkeys(range(8), 128)) == {2, 3, 4, 6, 7}
    assert needs.keep_from == Position(6, 0, 0), "the log of a former run is not this store: its file 5 may go"
