# SPDX-License-Identifier: MIT
"""What tests of cluster contexts run elsewhere."""

import os
import signal
import sys
import time


def add(value, count):
    for _ in range(count):
        with value.get_lock():
            value.value += 1


def count_words(queue, done, lock, table):
    while (word := queue.get()) is not None:
        with lock:
            table[word] = table.get(word, 0) + 1
        done.put(word.upper())
        queue.task_done()
    queue.task_done()


def die_holding(lock):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def take_and_die(queue):
    queue.get()
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(event, told):
    told.set()
    return event.wait(30)


def meet(barrier, condition, seen):
    barrier.wait(30)
    with condition:
        seen.append(os.getpid())
        condition.notify_all()


def leave(code):
    sys.exit(code)


def sleep_long(told):
    told.set()
    time.sleep(100)


def take(lock):
    return lock.acquire(block=False)


def identity(obj):
    return obj
