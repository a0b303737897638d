"""What waits for the model: bounded, fair, and handed out exactly once."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import serving
from echoembed import errors
from echoembed.prompts.template import Rendered
from echoembed.server.queue import Job, Queue


def job(*lengths: int, lane: str = "") -> Job:
    return Job([Rendered(tuple(range(length)), (0, 1), 0, "") for length in lengths], lane=lane)


def taken(queue: Queue) -> list[Job]:
    return [one for one, _ in queue.take()]


def test_a_one_item_request_is_in_the_next_pack_behind_a_large_one():
    queue = Queue(tokens=100_000, pack=100)
    large, small = job(*[20] * 2048), job(20)
    queue.put(large)
    taken(queue)
    queue.put(small)
    assert small in taken(queue)


def test_nobody_starves_while_new_requests_keep_coming():
    queue = Queue(tokens=100_000, pack=100)
    old = job(*[50] * 10)
    queue.put(old)
    for _ in range(10):
        for _ in range(5):
            queue.put(job(50))
        assert old in taken(queue)
    assert not old.order


def test_requests_take_turns():
    queue = Queue(tokens=100_000, pack=60)
    jobs = [job(*[20] * 9) for _ in range(3)]
    for one in jobs:
        queue.put(one)
    packs = [taken(queue) for _ in range(9)]
    assert all(set(pack) == set(jobs) for pack in packs)


def test_a_prompt_longer_than_a_pack_is_a_pack_of_its_own():
    queue = Queue(tokens=1000, pack=10)
    queue.put(job(500, 5))
    assert [[len(one.prompts[at].ids) for one, at in queue.take()] for _ in range(2)] == [[500], [5]]


def test_a_pack_has_prompts_of_one_recipe_and_the_other_recipe_is_next():
    queue = Queue(tokens=100_000, pack=100)
    echo, classical = job(*[20] * 100, lane="echo"), job(20, lane="classical")
    queue.put(echo)
    taken(queue)
    queue.put(classical)
    first, second = taken(queue), taken(queue)
    assert set(first) == {echo}
    assert set(second) == {classical}


def test_the_bound_is_exact_and_what_cannot_ever_fit_is_told_apart():
    queue = Queue(tokens=100, pack=100)
    with pytest.raises(errors.RequestError) as never:
        queue.put(job(60, 41))
    assert never.value.status == 413
    queue.put(job(60, 39))
    with pytest.raises(errors.RequestError) as later:
        queue.put(job(2), retry_after=7)
    assert (later.value.status, later.value.retry_after) == (429, 7)
    queue.put(job(1))
    assert queue.waiting == 100


def test_all_prompts_of_a_text_count_for_the_bound_the_packs_and_what_is_dropped():
    one = Rendered(tuple(range(10)), (0, 1))
    queue = Queue(tokens=100, pack=60)
    whole = Job([Rendered(tuple(range(10)), (0, 1), beside=(one, one))] * 3)
    queue.put(whole)
    assert queue.waiting == whole.tokens == 90
    assert taken(queue) == [whole] * 2
    assert queue.waiting == 30
    assert queue.drop(whole) == 30
    assert queue.waiting == 0


def test_dropping_a_job_frees_its_tokens_for_others():
    queue = Queue(tokens=100, pack=20)
    gone = job(*[10] * 10)
    queue.put(gone)
    taken(queue)
    assert queue.drop(gone) == 80
    assert (queue.waiting, len(queue)) == (0, 0)
    assert queue.drop(gone) == 0
    queue.put(job(*[10] * 10))


def test_a_closed_queue_hands_out_what_it_has_and_takes_nothing():
    queue = Queue(tokens=100, pack=10)
    kept = job(5)
    queue.put(kept)
    queue.close()
    with pytest.raises(errors.RequestError) as refused:
        queue.put(job(5))
    assert refused.value.status == 503
    assert taken(queue) == [kept]
    assert queue.take() is None


def test_closing_wakes_whoever_waits_for_a_pack():
    queue = Queue(tokens=100, pack=10)
    packs = []
    waiting = threading.Thread(target=lambda: packs.append(queue.take()))
    waiting.start()
    queue.close()
    waiting.join(serving.LONG)
    assert packs == [None]


@settings(max_examples=100, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.sampled_from(["", "other"])), max_size=8
    ),
    pack=st.integers(1, 60),
    dropped=st.sets(st.integers(0, 7)),
    pauses=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_every_prompt_that_is_not_dropped_is_handed_out_once(jobs, pack, dropped, pauses):
    queue = Queue(tokens=10_000, pack=pack)
    made = [job(*lengths, lane=lane) for lengths, lane in jobs]
    seen: list[tuple[int, int]] = []

    def collect() -> None:
        got = queue.take()
        assert len({one.lane for one, _ in got}) == 1
        assert len(got) == 1 or sum(len(one.prompts[at].ids) for one, at in got) <= pack
        seen.extend((made.index(one), at) for one, at in got)

    for number, one in enumerate(made):
        queue.put(one)
        if number in dropped:
            queue.drop(one)
        if pauses[number] and len(queue):
            collect()
    while len(queue):
        collect()
    assert queue.waiting == 0
    assert len(seen) == len(set(seen))
    whole = {(number, at) for number, one in enumerate(made) if number not in dropped for at in range(len(one.prompts))}
    assert set(seen) == whole


def test_a_job_is_done_with_its_last_vector_and_keeps_the_order_of_its_prompts():
    one = job(3, 1, 2)
    for index in (2, 0, 1):
        assert not one.future.done()
        one.deliver(index, np.full(4, index, dtype=np.float32))
    assert one.future.result(timeout=0).tolist() == [[0.0] * 4, [1.0] * 4, [2.0] * 4]


def test_a_job_that_nobody_waits_for_takes_vectors_and_errors_in_silence():
    for end in (lambda one: one.deliver(0, np.zeros(2, dtype=np.float32)), lambda one: one.fail(ValueError())):
        one = job(1)
        one.future.cancel()
        end(one)
