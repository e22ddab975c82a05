# SPDX-License-Identifier: MIT
"""Mutants of the core's sources: each breaks one rule, and the simulation must notice.

    mutants.py --list                       name, source, scenario and seeds, a line each
    mutants.py NAME SOURCE OUTPUT           write the mutated source

A mutant whose text is no longer found in the source fails the build: then the rule has moved
and the mutant must follow it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    source: str  # below core/src
    scenario: str
    changes: tuple[tuple[str, str], ...]
    seeds: int = 100000  # within which it must be noticed


def leaf(name: str, *changes: tuple[str, str]) -> Mutant:
    return Mutant("leaf-" + name, "shm/leaf.c", "leaf", changes)


def pool(name: str, source: str, *changes: tuple[str, str]) -> Mutant:
    return Mutant("pool-" + name, f"pool/{source}.c", "pool", changes)


MUTANTS = [
    leaf(
        "take-without-waiters",  # I2
        ("tid | sleepers | (old & FUTEX_WAITERS)", "tid | (sleepers & 0)"),
    ),
    leaf(
        "take-without-count",  # I2, the hole of the spikes
        ("counted(leaf) != 0 ? FUTEX_WAITERS : 0; /* I2 */", "0;"),
    ),
    leaf(
        "free-without-waiters",
        (
            "release(leaf, counted(leaf) != 0 ? FUTEX_WAITERS : 0, wake",
            "release(leaf, 0, wake",
        ),
        ("counted(leaf) != 0 ? FUTEX_WAITERS : 0; /* I2 */", "0;"),
    ),
    leaf(
        "no-announce",
        ("ssti_store_rlx(&leaf->seq[i], ssti_load_rlx(&leaf->seq[i]) + 1);", ""),
    ),
    leaf(
        "announce-late",  # after the word is free
        ("const uint32_t sleeping = wake != 0 ? announce(leaf, wake) : 0;\n", ""),
        (
            "/* pairs with take() */\n",
            "\n    const uint32_t sleeping = wake != 0 ? announce(leaf, wake) : 0;\n",
        ),
    ),
    leaf(
        "unpend-before-wakes",  # the kernel must wake in our place
        ("/* pairs with take() */\n", "\n    ssti_unpend(ssti_self());\n"),
    ),
    leaf(
        "asleep-without-pending",  # I4
        (
            "    slept = sleep_waiting(",
            "    ssti_unpend(ssti_self());\n    slept = sleep_waiting(",
        ),
    ),
    leaf(
        "pend-after-take",
        ("    ssti_pend(self, &leaf->word);\n    rc = take(", "    rc = take("),
        (
            "    if (rc == SST_EOWNERDEAD) {\n        redo(",
            "    ssti_pend(self, &leaf->word);\n    if (rc == SST_EOWNERDEAD) {\n        redo(",
        ),
    ),
    leaf(
        "no-contender-wake",  # I3
        ("    if (ssti_load_acq(&leaf->contenders) != 0) {", "    if (false) {"),
    ),
    leaf(
        "contender-uncounted",  # I1
        ("    ssti_fetch_add(&leaf->contenders, 1);\n", ""),
        ("    ssti_fetch_sub(&leaf->contenders, 1);\n    if", "    if"),
    ),
    leaf(
        "turn-unchanged",  # a contender on its way to bed
        (
            "        ssti_fetch_add(&leaf->turn, 1); /* pairs with the load in sleep_contended() */\n",
            "",
        ),
    ),
    leaf(
        "contenders-woken-on-word",  # two waiters wake each other for ever
        ("ssti_os_futex_wake(&leaf->turn, 1)", "ssti_os_futex_wake(&leaf->word, 1)"),
    ),
    leaf(
        "plain-store-unlock",
        (
            "old = ssti_xchg(&leaf->word, free_word);",
            (
                "old = ssti_load_rlx(&leaf->word);\n"
                "    ssti_store_rel(&leaf->word, free_word);"
            ),
        ),
    ),
    leaf(
        "waiter-on-word-only",
        (
            "ssti_os_futex_waitv(words, count, until)",
            "ssti_os_futex_waitv(words + count - 2, 1, until)",
        ),
    ),
    leaf(
        "waiter-on-seq-only",  # the kernel cannot wake it
        (
            "ssti_os_futex_waitv(words, count, until)",
            "ssti_os_futex_waitv(words + count - 1, 1, until)",
        ),
    ),
    leaf(
        "waiter-on-seq-first",  # a death between the two queues
        (
            (
                "    words[count++] = (struct ssti_os_wait){&leaf->word, word};\n"
                "    words[count++] = (struct ssti_os_wait){&leaf->seq[index], seq};\n"
            ),
            (
                "    words[count++] = (struct ssti_os_wait){&leaf->seq[index], seq};\n"
                "    words[count++] = (struct ssti_os_wait){&leaf->word, word};\n"
            ),
        ),
    ),
    leaf(
        "owner-died-slept-on",
        ("(word & FUTEX_OWNER_DIED) != 0 || ", ""),
    ),
    leaf(
        "seq-read-late",
        ("const uint32_t seq = ssti_load_rlx(&leaf->seq[index]);", "uint32_t seq;"),
        (
            "    slept = sleep_waiting(",
            "    seq = ssti_load_rlx(&leaf->seq[index]);\n    slept = sleep_waiting(",
        ),
    ),
    leaf(
        "no-redo",
        (
            "    if (rc == SST_EOWNERDEAD) {\n        redo(arena, leaf);\n    }\n",
            "    (void)redo;\n",
        ),
    ),
    leaf(
        "waiter-uncounted",  # I1
        ("    recount(arena, leaf, record, index, +1);\n", ""),
        (
            "    recount(arena, leaf, record, index, -1);\n    if (record != NULL) {\n",
            "    if (record != NULL) {\n",
        ),
    ),
    leaf(
        "record-free-while-named",  # I6: before it is counted
        (
            "        ssti_store_rel(&record->state, SSTI_WAIT_MOVING); /* I6 */\n",
            "        ;\n",
        ),
    ),
    leaf(
        "forget-keeps-count",
        (
            "    if (ssti_load_acq(&record->state) == SSTI_WAIT_COUNTED) {\n        recount(",
            "    if (false) {\n        recount(",
        ),
    ),
    leaf(
        "forget-hides-death",
        (
            "release(leaf, FUTEX_WAITERS | died,",
            "release(leaf, FUTEX_WAITERS | (died & 0),",
        ),
    ),
    Mutant(
        "mutex-free-in-silence",  # M3
        "sync/mutex.c",
        "mutex",
        (("due ? SSTI_LEAF_A : 0, 1", "due && owner != 0 ? SSTI_LEAF_A : 0, 1"),),
    ),
    Mutant(
        "mutex-owner-unwatched",  # M4
        "sync/mutex.c",
        "mutex",
        ((" || ssti_load_rlx(&shm->watched) != owner;", ";"),),
    ),
    Mutant(
        "mutex-taken-from-the-dead",
        "sync/mutex.c",
        "mutex",
        (
            (
                "            return SST_EOWNERDEAD;\n        }\n        ssti_store_rlx(&mutex->shm->watched, owner);",
                "            ssti_store_rel(&mutex->shm->owner, 0);\n            ssti_view_lock(&mutex->view);\n            continue;\n        }\n        ssti_store_rlx(&mutex->shm->watched, owner);",
            ),
        ),
    ),
    Mutant(
        "semaphore-wakes-none",  # S2
        "sync/semaphore.c",
        "semaphore",
        (("count > 0 ? SSTI_LEAF_A : 0, count", "count > 1 ? SSTI_LEAF_A : 0, count"),),
    ),
    Mutant(
        "semaphore-without-redo",
        "sync/semaphore.c",
        "semaphore",
        (("    semaphore->view.repair = redo;\n", ""),),
    ),
    Mutant(
        "event-set-in-silence",
        "sync/event.c",
        "event",
        (("(state & IS_SET) != 0 ? both : both", "(state & IS_SET) != 0 ? 0 : both"),),
    ),
    Mutant(
        "condition-credit-unpaid",
        "sync/condition.c",
        "condition",
        (("        ssti_store_rel(&condition->shm->turn, turn - 1);\n", ""),),
    ),
    Mutant(
        "barrier-ignores-the-dead",
        "sync/barrier.c",
        "barrier",
        (
            (
                "            break_locked(barrier);\n            return;\n",
                "            return;\n",
            ),
        ),
    ),
    Mutant(
        "barrier-opens-early",
        "sync/barrier.c",
        "barrier",
        (
            (
                "    if (count >= barrier->parties) {",
                "    if (count + 1 >= barrier->parties) {",
            ),
        ),
    ),
    Mutant(
        "queue-lies-down-in-silence",  # awake in another's place
        "ring/queue.c",
        "queue",
        (
            (
                "    ssti_queue_unlock(queue);\n    return rc;\n}\n\n/* A bounded",
                "    ssti_queue_unlock(queue);\n    return rc;\n}\n\n#define ssti_queue_wake_locked(queue) 0\n/* A bounded",
            ),
        ),
    ),
    Mutant(
        "queue-wakes-no-getter",
        "ring/queue.c",
        "queue",
        (("        wake |= SSTI_LEAF_A;\n", ""),),
    ),
    Mutant(
        "queue-bell-unrung",
        "ring/queue.c",
        "queue",
        (
            (
                "    if (ssti_bell_is_wanted(&queue->bell)) {\n        rc =",
                "    if (false) {\n        rc =",
            ),
        ),
    ),
    Mutant(
        "queue-bell-after-the-message",  # a ringer that dies leaves it unheard
        "ring/queue.c",
        "queue",
        (
            (
                "        rc = ssti_bell_ring_locked(&queue->bell);\n        if (rc != 0) {\n            return rc;\n        }\n    }\n    ssti_ring_put_locked(&queue->ring, deposit);",
                "        ssti_ring_put_locked(&queue->ring, deposit);\n        (void)ssti_bell_ring_locked(&queue->bell);\n        return 0;\n    }\n    ssti_ring_put_locked(&queue->ring, deposit);",
            ),
        ),
    ),
    Mutant(
        "ring-without-recount",
        "ring/ring.c",
        "queue",
        (("enter(ring) != 0 || recount(ring) != 0", "enter(ring) != 0"),),
    ),
    Mutant(
        "ring-take-without-redo",  # the extent belongs to two
        "ring/ring.c",
        "queue",
        (
            (
                "        if (ssti_load_rlx(&shm->get_cursor) != intent.cursor) {\n            ssti_held_set(ring->arena, intent.entry, 0);\n        }\n",
                "        ;\n",
            ),
        ),
    ),
    Mutant(
        "ring-untied",  # the sweeper frees what a ring owns
        "ring/queue_life.c",
        "queue",
        ((".destroy = destroy, .settle = settle", ".destroy = destroy"),),
    ),
    Mutant(
        "ring-put-without-redo",  # the sweeper drops what lies in the queue
        "ring/ring.c",
        "queue",
        (
            (
                "        ssti_store_rel(&shm->put_cursor, intent.cursor);\n        ssti_held_set(ring->arena, intent.entry, 0);\n",
                "        ssti_store_rel(&shm->put_cursor, intent.cursor);\n",
            ),
        ),
    ),
    Mutant(
        "pipe-sends-in-silence",
        "ring/pipe.c",
        "pipe",
        (
            (
                "    rc = ring_other_locked(pipe, ssti_load_rlx(&other->recv_asleep)); /* P1 */\n",
                "    (void)other;\n",
            ),
        ),
    ),
    Mutant(
        "pipe-rings-after-the-message",  # a ringer that dies leaves it unheard
        "ring/pipe.c",
        "pipe",
        (
            (
                "    rc = ring_other_locked(pipe, ssti_load_rlx(&other->recv_asleep)); /* P1 */\n",
                (
                    "    ssti_ring_put_locked(&pipe->out, deposit);\n"
                    "    rc = ring_other_locked(pipe, ssti_load_rlx(&other->recv_asleep));\n"
                ),
            ),
            (
                "        return rc;\n    }\n    ssti_ring_put_locked(&pipe->out, deposit);\n    return 0;",
                "        return rc;\n    }\n    return 0;",
            ),
        ),
    ),
    Mutant(
        "pipe-marks-before-it-rings",
        "ring/pipe.c",
        "pipe",
        (
            (
                "    rc = ssti_os_pair_ring(pipe->fd);\n",
                "    ssti_store_rel(&other->rung, 1);\n    rc = ssti_os_pair_ring(pipe->fd);\n",
            ),
        ),
    ),
    Mutant(
        "pipe-takes-in-silence",
        "ring/pipe.c",
        "pipe",
        (("        (void)ring_other_locked(pipe, senders);\n", ""),),
    ),
    Mutant(
        "pipe-wakes-no-sender",
        "ring/pipe.c",
        "pipe",
        (
            (
                "    return wake_senders_locked(pipe, 0) | wake_senders_locked(pipe, 1);",
                "    (void)wake_senders_locked(pipe, 0);\n    return 0;",
            ),
        ),
    ),
    Mutant(
        "pipe-drains-without-unmarking",
        "ring/pipe.c",
        "pipe",
        (("        ssti_store_rel(&end->rung, SSTI_PIPE_QUIET);\n", ""),),
    ),
    Mutant(
        "pipe-trusts-a-dead-ringer",  # his byte keeps the poll from sleeping
        "ring/pipe.c",
        "pipe",
        (("SSTI_PIPE_UNSURE);", "SSTI_PIPE_QUIET);"),),
    ),
    Mutant(
        "pipe-ends-before-its-messages",
        "ring/pipe.c",
        "pipe",
        (
            (
                "        if (rc != SSTI_RING_EMPTY) {\n            break;\n        }\n        if (wait->has_hung_up) {\n            rc = SST_EOF;",
                "        if (rc != SSTI_RING_EMPTY && !wait->has_hung_up) {\n            break;\n        }\n        if (wait->has_hung_up) {\n            rc = SST_EOF;",
            ),
        ),
    ),
    pool(
        "put-without-redo",  # L1: a result, and a lease that will be lost
        "lane",
        (
            "== cursor) {\n        apply_put(pool, seat, entry);\n",
            "== cursor) {\n        ;\n",
        ),
    ),
    pool(
        "take-without-redo",  # L1: neither queued nor leased
        "lane",
        (
            "            apply_take(pool, seat, id);\n        }\n        else if",
            "        }\n        else if",
        ),
    ),
    pool(
        "take-rolled-back-by-half",  # L2: the payload belongs to two
        "lane",
        (
            "        else if (entry != 0) {\n            ssti_held_set(pool->view.arena, entry, 0);\n        }\n    }\n    intended(shm);\n}",
            "    }\n    intended(shm);\n}",
        ),
    ),
    pool(
        "intent-before-its-fields",
        "lane",
        (
            "    ssti_store_rlx(&shm->intent_lane, lane);\n",
            "    ssti_store_rel(&shm->intent, (uint32_t)kind);\n    ssti_store_rlx(&shm->intent_lane, lane);\n",
        ),
    ),
    pool(
        "lease-without-a-record",  # committed before the lease, and nothing says so
        "lane",
        (
            "    intend(shm, POOL_TAKE, lane, seat, ssti_load_rlx(&ring->shm->get_cursor), entry);\n",
            "",
        ),
    ),
    pool(
        "mark-not-noted",  # cancelled, and run
        "lane",
        ("        ssti_store_rel(mark, (uint32_t)generation_of(id));\n", ""),
    ),
    pool(
        "untied",  # the sweeper frees what a lane owns
        "pool_life",
        (".destroy = destroy, .settle = settle", ".destroy = destroy"),
    ),
    pool(
        "dropped-without-a-mark",  # and cancelled once more
        "pool_life",
        ("    ssti_store_rel(mark, generation | SSTI_POOL_MARK_CANCELLED);\n", ""),
    ),
    pool(
        "old-generation-runs",
        "worker",
        ("    return marked > generation ||\n           (marked", "    return (marked"),
    ),
    pool(
        "condemned-may-finish",  # L3
        "worker",
        ("rc = ssti_load_rlx(&seat->condemned) != 0\n", "rc = false\n"),
    ),
    pool(
        "owner-unwatched",
        "worker",
        ("if (worker->owner != 0 &&", "if (false &&"),
    ),
    pool("wakes-no-worker", "pool", ("        wake |= SSTI_LEAF_A;\n", "")),  # L4
    pool("wakes-no-waiter", "pool", ("        wake |= SSTI_LEAF_B;\n", "")),
    pool("wakes-no-submitter", "pool", ("        wake |= SSTI_LEAF_C;\n", "")),
    pool(
        "bell-after-the-result",  # a ringer that dies leaves it unheard
        "pool",
        (
            "    if (rc == 0 && ssti_bell_is_wanted(&pool->bell)) {\n        rc = ssti_bell_ring_locked(&pool->bell);\n    }\n    if (rc == 0) {\n        ssti_lane_put_locked(pool, SSTI_POOL_RESULTS, cargo, seat);\n    }\n",
            "    if (rc == 0) {\n        ssti_lane_put_locked(pool, SSTI_POOL_RESULTS, cargo, seat);\n    }\n    if (rc == 0 && ssti_bell_is_wanted(&pool->bell)) {\n        (void)ssti_bell_ring_locked(&pool->bell);\n    }\n",
        ),
    ),
    pool(
        "deadline-noted-early",  # and forgotten with another's result
        "pool",
        (
            "        note_task_locked(pool, task);\n    }\n    return rc;\n",
            "    }\n    return rc;\n",
        ),
        (
            "    do {\n        rc = put_section(pool, task",
            "    note_task_locked(pool, task);\n    do {\n        rc = put_section(pool, task",
        ),
        (
            "    if (rc == 0 && task->parcel != NULL) {\n",
            "    if (rc != 0) {\n        ssti_fetch_sub(&pool->outstanding, 1);\n    }\n    if (rc == 0 && task->parcel != NULL) {\n",
        ),
        (
            "        bytes += cargo.head.size;\n",
            "        note_task_locked(pool, task);\n        bytes += cargo.head.size;\n",
        ),
    ),
    pool(
        "dismissed-in-silence",
        "seats",
        (
            "    ssti_view_unlock(&pool->view, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);\n",
            "    ssti_pool_unlock(pool);\n",
        ),
    ),
    pool(
        "buried-with-its-lease",  # no result says that it was lost
        "seats",
        (
            "    if (lost_head(shm, index, code, &cargo->head)) {",
            "    if (lost_head(shm, index, code, &cargo->head) && code == 0) {",
        ),
    ),
    pool(
        "leads-without-a-look",  # its result was handed out before
        "lead",
        ("if (flag == NULL || ssti_load_acq(flag) == 0) {", "if (true) {"),
    ),
    pool(
        "stops-leading-in-silence",
        "lead",
        (
            "    ssti_store_rel(&pool->leading, 0);\n    sst_pool_handed_out(pool);\n",
            "    ssti_store_rel(&pool->leading, 0);\n",
        ),
    ),
    pool(
        "nudge-unheard",
        "lead",
        ("    ssti_xchg(&pool->nudged, 1);\n", ""),
    ),
]


def write(name: str, source: Path, output: Path) -> None:
    [mutant] = [m for m in MUTANTS if m.name == name]
    text = source.read_text()
    for old, new in mutant.changes:
        if text.count(old) != 1:
            sys.exit(f"{name}: {text.count(old)} times in {source}: {old!r}")
        text = text.replace(old, new)
    output.write_text(text)


def main() -> None:
    if sys.argv[1:] == ["--list"]:
        for mutant in MUTANTS:
            print(mutant.name, mutant.source, mutant.scenario, mutant.seeds)
        return
    name, source, output = sys.argv[1:]
    write(name, Path(source), Path(output))


if __name__ == "__main__":
    main()
