"""From which page on a shard's journal is needed, and of which runtime it is."""

from __future__ import annotations

from recollect.runtime.journals import Journals


def test_a_checkpoint_names_the_page_that_goes_on_from_it() -> None:
    journals = Journals("run/journals")
    journals.turned("replay/0", 3)
    journals.turned("replay/1", 5)
    state = {"journal": journals.state_dict()}
    journals.turned("replay/0", 4)
    assert journals.page_of(state, "replay/0") == 3, "that of its moment"
    assert journals.page_of(state, "replay/1") == 5
    assert journals.page_of(state, "replay/2") == 0
    assert journals.page_of(None, "replay/0") == 0


def test_of_a_checkpoint_of_another_runtime_the_first_page_goes_on() -> None:
    """It was loaded before the journal was begun; so was one of a run in one process."""
    journals, other = Journals("x"), Journals("x")
    other.turned("replay/0", 3)
    assert journals.page_of({"journal": other.state_dict()}, "replay/0") == 0
    assert journals.page_of({}, "replay/0") == 0
    assert journals.page_of({"journal": {}}, "replay/0") == 0


def test_pages_are_needed_until_a_later_checkpoint_is_on_disk() -> None:
    """C6: a snapshot that was not written needs none of its own, and lets none go."""
    journals = Journals("x")
    assert journals.needed("replay/0") == 0
    journals.turned("replay/0", 1)
    assert journals.needed("replay/0") == 0
    journals.saved()
    assert journals.needed("replay/0") == 1
    journals.turned("replay/0", 2)
    assert journals.needed("replay/0") == 1, "the disk was full"
    journals.turned("replay/0", 3)
    journals.saved()
    assert journals.needed("replay/0") == 3
    assert journals.needed("replay/1") == 0


def test_each_shard_has_a_folder_of_its_own() -> None:
    assert Journals("run/journals").of("replay/1") == "run/journals/replay-1"


def test_pages_that_begin_anew_go_on_from_one_state_and_no_other() -> None:
    """A snapshot that was being saved when a shard lost its journal names pages of before."""
    journals = Journals("x")
    journals.turned("replay/0", 1)
    base = {"journal": journals.state_dict()}
    journals.turned("replay/0", 2)
    in_flight = {"journal": journals.state_dict()}
    first = journals.anew("replay/0")
    journals.begin_anew(base, "replay/0")
    assert first > 2
    assert journals.page_of(base, "replay/0") == first
    assert journals.page_of(in_flight, "replay/0") not in (1, 2, first)
    assert journals.page_of(None, "replay/0") not in (0, first)
    journals.turned("replay/0", first + 1)
    after = {"journal": journals.state_dict()}
    assert journals.page_of(after, "replay/0") == first + 1
    second = journals.anew("replay/0")
    journals.begin_anew(None, "replay/0")
    assert journals.page_of(None, "replay/0") == second > first + 1
    assert journals.page_of(base, "replay/0") not in (first, second)
    assert journals.page_of(after, "replay/0") not in (first, second)
    third = journals.anew("replay/0")
    journals.begin_anew(after, "replay/0")
    assert journals.page_of(after, "replay/0") == third > second
    assert journals.page_of(None, "replay/0") not in (first, second, third)
    assert journals.anew("replay/0") > third
